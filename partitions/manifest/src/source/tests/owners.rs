//! What must fit together: owners, names, ends.

use super::{refused, with};

#[test]
fn cores_have_one_owner() {
    refused(
        &with("cpus = [2, 3]", "cpus = [1, 2]"),
        &[(
            "x.toml:14: partition[0].cpus: [1] belongs to linux already",
            "of the two lists",
        )],
    );
    refused(
        &with("cpus = [4]", "cpus = [4, 3]"),
        &[(
            "x.toml:29: partition[1].cpus: [3] belongs to partition \"spin\" already",
            "a core has one owner, take it out of one of the two lists",
        )],
    );
    refused(
        &with("cpus = [4]", "cpus = []"),
        &[(
            "x.toml:29: partition[1].cpus: no core",
            "name at least one, as in [2]",
        )],
    );
    refused(
        &with("cpus = [4]", "cpus = [4, 4]"),
        &[(
            "x.toml:29: partition[1].cpus[1]: core 4 is listed twice",
            "list it once",
        )],
    );
    refused(
        &with("cpus = [4]", "cpus = [\n 4,\n 64 ]"),
        &[(
            "x.toml:31: partition[1].cpus[1]: 64 is out of range",
            "use 0 to 63, as in cpus = [2]",
        )],
    );
    refused(
        &with("debug = [1]", "debug = [2]"),
        &[(
            "x.toml:10: linux.debug: [2] not among linux.cpus",
            "name cores out of [0, 1]",
        )],
    );
    let all: Vec<_> = (2..64).collect();
    refused(
        &with("cpus = [2, 3]", &format!("cpus = {all:?}")).replace("cpus = [4]", "cpus = [64]"),
        &[
            (
                "x.toml:14: partition[0].cpus: stacks of 62 cores",
                "less memory (4 KiB per GiB)",
            ),
            ("x.toml:29: partition[1].cpus[0]: 64 is out of range", ""),
        ],
    );
}

#[test]
fn names_are_unique_and_well_formed() {
    refused(
        &with("name = \"other\"", "name = \"spin\""),
        &[(
            "x.toml:28: partition[1].name: partition[0] is called \"spin\" already",
            "give each its own name",
        )],
    );
    refused(
        &with("name = \"log\"", "name = \"other\""),
        &[(
            "x.toml:34: channel[0].name: partition[1] is called \"other\" already",
            "own name",
        )],
    );
    refused(
        &with("name = \"other\"", "name = \"linux\""),
        &[(
            "x.toml:28: partition[1].name: \"linux\" always means",
            "choose another name",
        )],
    );
    refused(
        &with("name = \"other\"", "name = \"My part\""),
        &[(
            "x.toml:28: partition[1].name: \"My part\" is no name",
            "as in \"packet-loop\"",
        )],
    );
    let long = "a".repeat(32);
    refused(
        &with("\"other\"", &format!("\"{long}\"")),
        &[(
            "x.toml:28: partition[1].name: 32 bytes are too long",
            "use at most 31",
        )],
    );
}

#[test]
fn modules_are_files_beside() {
    refused(
        &with("kernel = \"vmlinuz\"", "kernel = \"/boot/vmlinuz\""),
        &[(
            "x.toml:7: linux.kernel: \"/boot/vmlinuz\" is no module name",
            "\"spin.elf\"",
        )],
    );
    refused(
        &with("initrd = \"initrd.img\"", "initrd = \"vmlinuz\""),
        &[(
            "x.toml:8: linux.initrd: \"vmlinuz\" is linux.kernel already",
            "another module here",
        )],
    );
    refused(
        &with("kernel = \"vmlinuz\"", "kernel = \"manifest\""),
        &[(
            "x.toml:7: linux.kernel: \"manifest\" is the compiled manifest's own",
            "the file",
        )],
    );
    refused(
        &with("args = \"quanta=1000000\"", "args = \"a\\nb\""),
        &[(
            "x.toml:17: partition[0].args: has a control character",
            "apart by spaces",
        )],
    );
}

#[test]
fn ports_have_one_owner() {
    let ports = |base: u32, count| {
        with(
            "{ base = 0x3e8, count = 8 }",
            &format!("{{ base = {base:#x}, count = {count} }}"),
        )
    };
    refused(
        &ports(0x2f0, 16),
        &[(
            "x.toml:24: partition[0].ports[0]: ports 0x2f0 to 0x2ff overlap the hypervisor's \
             console, com2",
            "to \"none\"",
        )],
    );
    refused(
        &ports(0xcf9, 1),
        &[(
            "x.toml:24: partition[0].ports[0]: ports 0xcf8 to 0xcff are PCI",
            "leave them out",
        )],
    );
    refused(
        &ports(0x64, 1),
        &[(
            "x.toml:24: partition[0].ports[0]: ports 0x60 to 0x64 are the keyboard",
            "them out",
        )],
    );
    refused(
        &ports(0xffff, 2),
        &[(
            "x.toml:24: partition[0].ports[0]: goes past the last port",
            "count may be 1 at most",
        )],
    );
    refused(
        &ports(0x1_0000, 2),
        &[(
            "x.toml:24: partition[0].ports[0].base: 0x10000 is out of range; use 0x0 to 0xffff,",
            "base = 0x3e8",
        )],
    );
    refused(
        &ports(0x3e8, 0),
        &[(
            "x.toml:24: partition[0].ports[0].count: 0 is out of range",
            "count = 8",
        )],
    );
    let twice = "program = \"spin.elf\"\nports = [{ base = 0x400, count = 1 }, { base = 0x3ef, count = 1 }]\n\n";
    refused(
        &with("program = \"spin.elf\"\n\n", twice),
        &[(
            "x.toml:32: partition[1].ports[1]: ports 0x3ef overlap 0x3e8 to 0x3ef, which belong to \
             partition \"spin\" already",
            "a port has one owner, take it out of one of the two",
        )],
    );
    refused(
        &with("count = 8 }]", "count = 8 }, { base = 0x3e0, count = 9 }]"),
        &[(
            "x.toml:24: partition[0].ports[1]: ports 0x3e0 to 0x3e8 overlap",
            "of the two",
        )],
    );
}

#[test]
fn devices_have_one_owner() {
    let other = |devices: &str| {
        with(
            "program = \"spin.elf\"\n\n",
            &format!("program = \"spin.elf\"\ndevices = [{devices}]\n\n"),
        )
    };
    refused(
        &other("\"0000:00:03.0\""),
        &[(
            "x.toml:32: partition[1].devices[0]: 0000:00:03.0 belongs to partition \"spin\" already",
            "take it out of one of the two",
        )],
    );
    refused(
        &other("\"00:03.0\""),
        &[(
            "x.toml:32: partition[1].devices[0]: \"00:03.0\" is no PCI",
            "as in \"0000:00:03.0\"",
        )],
    );
    refused(
        &other("{ address = \"0000:00:05.0\", dma = \"off\" }"),
        &[(
            "x.toml:32: partition[1].devices[0].dma: \"off\" is unknown",
            "use one of \"protected\", \"unprotected\"",
        )],
    );
    let twice = "{ device = \"1af4:1000\" }, { device = \"1af4:1000#0\" }";
    refused(
        &other(twice),
        &[(
            "x.toml:32: partition[1].devices[1]: 1af4:1000#0 belongs to partition \"other\" already",
            "take it out of one of the two",
        )],
    );
    refused(
        &other("{ device = \"1af4:1000#x\" }"),
        &[(
            "x.toml:32: partition[1].devices[0].device: \"1af4:1000#x\" names no PCI function",
            "as in \"1af4:1000#1\"",
        )],
    );
    refused(
        &other("{ address = \"0000:00:05.0\", device = \"1af4:1000\" }"),
        &[(
            "x.toml:32: partition[1].devices[0].device: names a function that has an address",
            "leave one of the two out",
        )],
    );
    refused(
        &other("{ dma = \"unprotected\" }"),
        &[(
            "x.toml:32: partition[1].devices[0]: names no function",
            "device = \"1af4:1000#1\"",
        )],
    );
    refused(
        &other("\"0000:00:00.0\""),
        &[(
            "x.toml:32: partition[1].devices[0]: 0000:00:00.0 is the host bridge",
            "leave it out",
        )],
    );
}

#[test]
fn linux_prints_on_its_own_port() {
    refused(
        &with("ttyS0", "ttyS1,115200n8"),
        &[(
            "x.toml:9: linux.cmdline: ttyS1 is com2, the hypervisor's console",
            "than \"com2\"",
        )],
    );
    refused(
        &with("ttyS0", "ttyS2"),
        &[(
            "x.toml:9: linux.cmdline: ttyS2 is com3, whose ports belong to",
            "another ttyS",
        )],
    );
}

#[test]
fn channels_have_two_ends_that_exist() {
    let between = |ends: &str| with("[\"linux\", \"spin\"]", ends);
    refused(
        &between("[\"linux\", \"spun\"]"),
        &[(
            "x.toml:35: channel[0].between: no partition is called \"spun\"",
            "of a partition",
        )],
    );
    refused(
        &between("[\"spin\", \"spin\"]"),
        &[(
            "x.toml:35: channel[0].between: both ends are \"spin\"",
            "two different ones",
        )],
    );
    refused(
        &between("[\"spin\"]"),
        &[(
            "x.toml:35: channel[0].between: a channel has two ends, these are 1",
            "\"spin\"]",
        )],
    );
    refused(
        "[[partition]]\nname='a'\ncpus=[0]\nmemory='4M'\nprogram='a'\n\
         [[channel]]\nname='b'\nbetween=['linux','a']\nsize='4K'",
        &[(
            "x.toml:8: channel[0].between: there is no [linux] table",
            "name two partitions",
        )],
    );
}

#[test]
fn something_must_run() {
    refused(
        "",
        &[(
            "x.toml:1: partition: nothing to run",
            "or a [[partition]] table",
        )],
    );
    refused(
        "\n[[partition]]\nname='a'\ncpus=[0]\nmemory='4M'\nprogram='a'\nautostart=false",
        &[(
            "x.toml:2: partition: without [linux] nobody can start",
            "or add a [linux] table",
        )],
    );
    let many = (0..33).map(|n| format!("[[partition]]\nname='p{n}'\n"));
    refused(
        &many.collect::<String>(),
        &[(
            "x.toml:1: partition: 33 of them are too many",
            "use at most 32",
        )],
    );
}
