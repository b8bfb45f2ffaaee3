//! The tables of a system file.

use cloister_abi::{Dataplane, MAX_CORES, MAX_PARTITIONS};
use toml::de::DeTable;

use super::report::Report;
use super::table::{Field, Key, Table};
use crate::cpuset::CpuSet;
use crate::hardware::{Console, Device, DeviceName, Dma, PciAddress, PortRange};
use crate::model::{
    Channel, DEFAULT_MAX_RESTARTS, Hypervisor, Linux, MAX_CHANNELS, Manifest, Name, OnViolation,
    Partition,
};

const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

const ROOT: &[Key] = &[
    key(
        "hypervisor",
        "a table that begins with the line [hypervisor]",
    ),
    key("linux", "a table that begins with the line [linux]"),
    key(
        "partition",
        "tables that each begin with the line [[partition]]",
    ),
    key(
        "channel",
        "tables that each begin with the line [[channel]]",
    ),
];
const HYPERVISOR: &[Key] = &[
    key("memory", r#"memory = "32M""#),
    key("console", r#"console = "com2""#),
];
const LINUX: &[Key] = &[
    key("cpus", "cpus = [0, 1]"),
    key("kernel", r#"kernel = "vmlinuz""#),
    key("initrd", r#"initrd = "initrd.img""#),
    key("cmdline", r#"cmdline = "console=ttyS0""#),
    key("debug", "debug = [1]"),
];
const PARTITION: &[Key] = &[
    key("name", r#"name = "spin""#),
    key("cpus", "cpus = [2]"),
    key("memory", r#"memory = "64M""#),
    key("program", r#"program = "spin.elf""#),
    key("args", r#"args = "quanta=1000000""#),
    key(
        "dataplane",
        r#"dataplane = ["quiesce", "strict", "populate"]"#,
    ),
    key("autostart", "autostart = true"),
    key("on_violation", r#"on_violation = "stop""#),
    key("max_restarts", "max_restarts = 3"),
    key("restart_window", r#"restart_window = "60s""#),
    key("apic", "apic = true"),
    key("ports", "ports = [{ base = 0x3e8, count = 8 }]"),
    key("devices", r#"devices = ["0000:00:03.0"]"#),
];
const PORTS: &[Key] = &[key("base", "base = 0x3e8"), key("count", "count = 8")];
const DEVICE: &[Key] = &[
    key("address", r#"address = "0000:00:03.0""#),
    key("device", r#"device = "1af4:1000#1""#),
    key("dma", r#"dma = "unprotected""#),
];
const CHANNEL: &[Key] = &[
    key("name", r#"name = "log""#),
    key("between", r#"between = ["linux", "spin"]"#),
    key("size", r#"size = "64K""#),
];

/// Reads the whole file. What is wrong is told in `report`; the manifest then
/// has defaults or nothing in its place.
pub(super) fn manifest(report: &mut Report, root: &DeTable<'_>) -> Manifest {
    let root = Table::open(report, root, "", 1, ROOT);
    let mut manifest = Manifest::new();
    if let Some(table) = root
        .get(report, "hypervisor")
        .and_then(|f| f.as_table(report, HYPERVISOR))
    {
        manifest.hypervisor = hypervisor(report, &table);
    }
    if let Some(table) = root
        .get(report, "linux")
        .and_then(|f| f.as_table(report, LINUX))
    {
        manifest.linux = Some(linux(report, &table));
    }
    for table in tables(report, &root, "partition", MAX_PARTITIONS, PARTITION) {
        let partition = table
            .map(|table| partition(report, &table))
            .unwrap_or_default();
        // The list is as long as the vector at most.
        let _ = manifest.partitions.push(partition);
    }
    for table in tables(report, &root, "channel", MAX_CHANNELS, CHANNEL) {
        let channel = table
            .map(|table| channel(report, &table))
            .unwrap_or_default();
        let _ = manifest.channels.push(channel);
    }
    manifest
}

/// The `[[name]]` tables; [`None`] for one that is no table.
fn tables<'a>(
    report: &mut Report,
    root: &Table<'a>,
    name: &str,
    most: usize,
    keys: &'static [Key],
) -> Vec<Option<Table<'a>>> {
    let Some(field) = root.get(report, name) else {
        return Vec::new();
    };
    if field.is_table() {
        field.fail(
            report,
            format!("there may be several; begin each with the line [[{name}]]"),
        );
        return Vec::new();
    }
    let list = field.as_list(report, most).unwrap_or_default();
    list.iter()
        .map(|element| element.as_table(report, keys))
        .collect()
}

fn hypervisor(report: &mut Report, table: &Table<'_>) -> Hypervisor {
    let mut hypervisor = Hypervisor::default();
    if let Some(memory) = table.get(report, "memory").and_then(|f| f.as_size(report)) {
        hypervisor.memory = memory;
    }
    if let Some(field) = table.get(report, "console") {
        hypervisor.console = field.as_choice(report, &Console::NAMES).unwrap_or_default();
    }
    hypervisor
}

fn linux(report: &mut Report, table: &Table<'_>) -> Linux {
    Linux {
        cpus: table
            .need(report, "cpus")
            .map(|f| cpus(report, &f))
            .unwrap_or_default(),
        kernel: table
            .need(report, "kernel")
            .and_then(|f| f.as_text(report))
            .unwrap_or_default(),
        initrd: table.get(report, "initrd").and_then(|f| f.as_text(report)),
        cmdline: table
            .get(report, "cmdline")
            .and_then(|f| f.as_text(report))
            .unwrap_or_default(),
        debug: table
            .get(report, "debug")
            .map(|f| cpus(report, &f))
            .unwrap_or_default(),
    }
}

fn partition(report: &mut Report, table: &Table<'_>) -> Partition {
    Partition {
        name: table
            .need(report, "name")
            .and_then(|f| f.as_text(report))
            .unwrap_or_default(),
        cpus: table
            .need(report, "cpus")
            .map(|f| cpus(report, &f))
            .unwrap_or_default(),
        memory: table
            .need(report, "memory")
            .and_then(|f| f.as_size(report))
            .unwrap_or_default(),
        program: table
            .need(report, "program")
            .and_then(|f| f.as_text(report))
            .unwrap_or_default(),
        args: table
            .get(report, "args")
            .and_then(|f| f.as_text(report))
            .unwrap_or_default(),
        dataplane: table
            .get(report, "dataplane")
            .map(|f| dataplane(report, &f))
            .unwrap_or_default(),
        autostart: table
            .get(report, "autostart")
            .and_then(|f| f.as_bool(report))
            .unwrap_or(true),
        on_violation: on_violation(report, table),
        apic: table
            .get(report, "apic")
            .and_then(|f| f.as_bool(report))
            .unwrap_or(false),
        ports: list(report, table, "ports", ports),
        devices: list(report, table, "devices", device),
    }
}

fn channel(report: &mut Report, table: &Table<'_>) -> Channel {
    Channel {
        name: table
            .need(report, "name")
            .and_then(|f| f.as_text(report))
            .unwrap_or_default(),
        between: table
            .need(report, "between")
            .and_then(|f| ends(report, &f))
            .unwrap_or_default(),
        size: table
            .need(report, "size")
            .and_then(|f| f.as_size(report))
            .unwrap_or_default(),
    }
}

fn cpus(report: &mut Report, field: &Field<'_>) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    let highest = u32::try_from(MAX_CORES - 1).unwrap_or(u32::MAX);
    for element in field.as_list(report, MAX_CORES).unwrap_or_default() {
        let Some(core) = element.as_number(report, 0, highest) else {
            continue;
        };
        if !set.insert(core as usize) {
            element.fail(report, format!("core {core} is listed twice; list it once"));
        }
    }
    set
}

fn dataplane(report: &mut Report, field: &Field<'_>) -> Dataplane {
    let mut flags = Dataplane::empty();
    for element in field.as_list(report, usize::MAX).unwrap_or_default() {
        let Some(flag) = element.as_choice(report, &Dataplane::NAMES) else {
            continue;
        };
        if flags.contains(flag) {
            element.fail(report, "listed twice; list each flag once".to_owned());
        }
        flags |= flag;
    }
    flags.with_implied()
}

fn on_violation(report: &mut Report, table: &Table<'_>) -> OnViolation {
    let limit = table.get(report, "max_restarts");
    let max = limit
        .as_ref()
        .and_then(|f| f.as_number(report, 1, u32::MAX));
    let window = table.get(report, "restart_window");
    let seconds = window.as_ref().and_then(|f| f.as_seconds(report));
    let restart = OnViolation::Restart {
        max: max.unwrap_or(DEFAULT_MAX_RESTARTS),
        window: seconds.unwrap_or(0),
    };
    let values = [OnViolation::Stop, restart, OnViolation::Report].map(|each| (each.name(), each));
    let field = table.get(report, "on_violation");
    let chosen = field.map_or(Some(OnViolation::Stop), |f| f.as_choice(report, &values));
    if let Some(OnViolation::Stop | OnViolation::Report) = chosen {
        for limit in [limit, window].iter().flatten() {
            limit.fail(
                report,
                "only restarts have a limit; add on_violation = \"restart\", or leave this out"
                    .to_owned(),
            );
        }
    }
    chosen.unwrap_or_default()
}

/// A list of at most `N` elements. Empty when one of them is wrong,
/// so that positions are those of the file.
fn list<T, const N: usize>(
    report: &mut Report,
    table: &Table<'_>,
    name: &str,
    read: impl Fn(&mut Report, &Field<'_>) -> Option<T>,
) -> heapless::Vec<T, N> {
    let field = table.get(report, name);
    let elements = field.and_then(|f| f.as_list(report, N)).unwrap_or_default();
    // All are read, to tell all that is wrong.
    let values: Vec<_> = elements
        .iter()
        .map(|element| read(report, element))
        .collect();
    let values: Option<heapless::Vec<T, N>> = values.into_iter().collect();
    values.unwrap_or_default()
}

fn ports(report: &mut Report, field: &Field<'_>) -> Option<PortRange> {
    let table = field.as_table(report, PORTS)?;
    let mut number = |name, least| {
        let field = table.need(report, name)?;
        field
            .as_number(report, least, u16::MAX.into())
            .and_then(|value| u16::try_from(value).ok())
    };
    let (base, count) = (number("base", 0), number("count", 1));
    Some(PortRange {
        base: base?,
        count: count?,
    })
}

fn device(report: &mut Report, field: &Field<'_>) -> Option<Device> {
    if !field.is_table() {
        return address(report, field).map(|address| Device {
            name: DeviceName::Address(address),
            dma: Dma::Protected,
        });
    }
    let table = field.as_table(report, DEVICE)?;
    let name = match (table.get(report, "address"), table.get(report, "device")) {
        (Some(_), Some(field)) => {
            let both = "names a function that has an address already; leave one of the two out";
            field.fail(report, both.to_owned());
            None
        }
        (None, Some(field)) => id(report, &field),
        (None, None) => {
            let neither = "names no function; add address = \"0000:00:03.0\" or \
                           device = \"1af4:1000#1\"";
            field.fail(report, neither.to_owned());
            None
        }
        (Some(field), None) => address(report, &field).map(DeviceName::Address),
    };
    let values = [
        ("protected", Dma::Protected),
        ("unprotected", Dma::Unprotected),
    ];
    let dma = match table.get(report, "dma") {
        Some(field) => field.as_choice(report, &values),
        None => Some(Dma::Protected),
    };
    Some(Device {
        name: name?,
        dma: dma?,
    })
}

fn address(report: &mut Report, field: &Field<'_>) -> Option<PciAddress> {
    let text = field.as_str(report)?;
    let address = text.parse().ok();
    if address.is_none() {
        field.fail(
            report,
            format!(
                "\"{}\" is no PCI address; write segment:bus:device.function as `lspci -D` does, \
                 as in \"0000:00:03.0\"",
                text.escape_debug()
            ),
        );
    }
    address
}

fn id(report: &mut Report, field: &Field<'_>) -> Option<DeviceName> {
    let text = field.as_str(report)?;
    let name = text.parse().ok();
    if name.is_none() {
        field.fail(
            report,
            format!(
                "\"{}\" names no PCI function; write vendor:device#index, IDs as `lspci -n` shows \
                 them and index below 256, as in \"1af4:1000#1\"",
                text.escape_debug()
            ),
        );
    }
    name
}

fn ends(report: &mut Report, field: &Field<'_>) -> Option<[Name; 2]> {
    let list = field.as_list(report, usize::MAX)?;
    let [first, second] = list.as_slice() else {
        field.fail(
            report,
            format!(
                "a channel has two ends, these are {}; write {}",
                list.len(),
                field.example()
            ),
        );
        return None;
    };
    let (first, second) = (first.as_text(report), second.as_text(report));
    Some([first?, second?])
}
