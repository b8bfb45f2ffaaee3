use std::path::Path;

use super::{Loaded, load, parse};
use crate::{Console, OnViolation, blob};

fn shipped(name: &str) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    load(&path).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn shipped_systems_are_right() {
    let demo = shipped("demo.toml");
    assert_eq!(demo.warnings, []);
    assert_eq!(demo.manifest.partitions.len(), 2);
    let modules: Vec<_> = demo.manifest.modules().map(|(_, name)| name).collect();
    assert_eq!(modules, ["vmlinuz", "initrd.img", "spin.elf", "exits.elf"]);
    let solo = shipped("solo.toml");
    assert_eq!(solo.warnings, []);
    assert_eq!(solo.manifest.linux, None);
    for loaded in [demo, solo] {
        let compiled = crate::encode(&loaded.manifest);
        assert_eq!(blob::decode(&compiled), Ok(loaded.manifest));
    }
}
