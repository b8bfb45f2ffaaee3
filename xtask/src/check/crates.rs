//! Who may import whom, of the packages of this workspace.

use crate::build::{Metadata, PROGRAM_PREFIX};

/// A package, and which of ours it may depend on.
const RULES: &[(&str, &[&str])] = &[
    ("cloister-abi", &[]),
    ("cloister-core", &["cloister-abi"]),
    ("cloister-manifest", &["cloister-abi"]),
    (
        "hypervisor",
        &["cloister-abi", "cloister-core", "cloister-manifest"],
    ),
    (
        "cloister-bare",
        &["cloister-abi", "cloister-core", "cloister-manifest"],
    ),
    ("cloister-channel", &["cloister-abi"]),
    ("cloister-runtime", &["cloister-abi", "cloister-channel"]),
    ("cloister-net", &["cloister-runtime"]),
    (
        "cloister-tool",
        &["cloister-abi", "cloister-channel", "cloister-manifest"],
    ),
    ("guest-linux", &["cloister-abi", "cloister-manifest"]),
    (
        "xtask",
        &["cloister-abi", "cloister-manifest", "guest-linux"],
    ),
    (
        "cloister-tests",
        &["cloister-abi", "cloister-manifest", "guest-linux", "xtask"],
    ),
];
/// What a partition program may depend on.
const PROGRAM: &[&str] = &["cloister-runtime", "cloister-net"];
/// What any other package may: one that a later part of the Linux side adds.
const OTHER: &[&str] = &["cloister-abi", "cloister-manifest"];

/// What in the workspace is against the rules.
pub(super) fn complaints(metadata: &Metadata) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in &metadata.packages {
        let allowed = allowed(&package.name);
        for dependency in package.dependencies.iter().filter(|d| d.path.is_some()) {
            if !allowed.contains(&dependency.name.as_str()) {
                let may = match allowed {
                    [] => "none of ours".to_owned(),
                    names => names.join(", "),
                };
                complaints.push(format!(
                    "package {} depends on {}; it may depend on {may}",
                    package.name, dependency.name
                ));
            }
        }
    }
    complaints
}

fn allowed(package: &str) -> &'static [&'static str] {
    match RULES.iter().find(|(name, _)| *name == package) {
        Some((_, allowed)) => allowed,
        None if package.starts_with(PROGRAM_PREFIX) => PROGRAM,
        None => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(package: &str, dependency: &str, path: &str) -> Metadata {
        let json = format!(
            r#"{{"packages": [{{"name": "{package}", "targets": [], "dependencies":
            [{{"name": "{dependency}", "path": {path}}}]}}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn breaches_are_named() {
        for (package, dependency) in [
            ("cloister-abi", "cloister-core"),
            ("cloister-tests", "hypervisor"),
            ("xtask", "hypervisor"),
            ("program-spin", "cloister-manifest"),
            ("cloister-core", "cloister-manifest"),
            ("something-new", "hypervisor"),
        ] {
            let found = complaints(&metadata(package, dependency, "\"/x\""));
            assert_eq!(found.len(), 1, "{package} -> {dependency}");
            assert!(found[0].contains(package) && found[0].contains(dependency));
        }
    }

    #[test]
    fn what_is_allowed() {
        for (package, dependency, path) in [
            ("cloister-tests", "xtask", "\"/x\""),
            ("hypervisor", "cloister-core", "\"/x\""),
            ("program-spin", "cloister-runtime", "\"/x\""),
            ("program-spin", "bitflags", "null"),
        ] {
            let found = complaints(&metadata(package, dependency, path));
            assert_eq!(found, Vec::<String>::new());
        }
    }
}
