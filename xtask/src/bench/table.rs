//! The table that people read.

use std::fmt::Write as _;

use super::{Cost, Measurement, Unit};

/// One line for each kind of exit.
#[must_use]
pub fn table(measurement: &Measurement) -> String {
    let unit = match measurement.unit {
        Unit::Instructions => "instructions",
        Unit::Cycles => "TSC cycles (the clock does not count instructions here)",
    };
    let mut text = format!(
        "{}, {}, one core: {unit} added over native\n",
        measurement.machine, measurement.vendor
    );
    let heads = ["exit", "min", "median", "max", "target", "Jailhouse", "KVM"];
    line(&mut text, heads.map(str::to_owned), "");
    for cost in &measurement.exits {
        let reference = &cost.reference;
        let known = |figure: Option<u64>| figure.map_or("-".to_owned(), |f| f.to_string());
        let cells = [
            cost.exit.clone(),
            cost.min.to_string(),
            cost.median.to_string(),
            cost.max.to_string(),
            known(reference.target),
            known(reference.jailhouse),
            known(reference.kvm),
        ];
        line(&mut text, cells, &remark(cost));
    }
    text
}

fn remark(cost: &Cost) -> String {
    match cost.reference.target {
        Some(target) if cost.median > target => {
            format!("{} over the target", cost.median - target)
        }
        _ => String::new(),
    }
}

fn line(text: &mut String, [exit, numbers @ ..]: [String; 7], remark: &str) {
    let mut line = format!("{exit:<15}");
    for number in numbers {
        // Writing to a String does not fail.
        let _ = write!(line, "{number:>11}");
    }
    text.push_str(format!("{line}  {remark}").trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::Reference;
    use super::*;

    #[test]
    fn a_miss_is_told() {
        let cost = |median| Cost {
            exit: "cpuid".into(),
            min: 1,
            median,
            max: 2,
            reference: Reference {
                target: Some(100),
                jailhouse: Some(122),
                kvm: None,
            },
        };
        let measurement = Measurement {
            machine: "qemu",
            vendor: "amd".into(),
            unit: Unit::Instructions,
            exits: vec![cost(100), cost(103)],
        };
        let text = table(&measurement);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].ends_with(" 122          -"), "{text}");
        assert!(lines[3].ends_with("3 over the target"), "{text}");
    }
}
