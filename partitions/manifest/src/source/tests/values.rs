//! Keys, types and single values.

use super::{refused, with};

#[test]
fn syntax_errors_have_a_line() {
    refused(
        &with("kernel = \"vmlinuz\"", "kernel = vmlinuz"),
        &[("x.toml:7: TOML syntax: ", "")],
    );
    refused(
        &with("debug = [1]", "cpus = [1]"),
        &[("x.toml:10: TOML syntax: duplicate key", "")],
    );
}

#[test]
fn unknown_keys_name_the_nearest() {
    refused(
        &with("apic = true", "apci = true"),
        &[(
            "x.toml:23: partition[0].apci: unknown key; did you mean \"apic\"?",
            "devices",
        )],
    );
    refused(
        &with("console = \"com2\"", "kernels = 1"),
        &[(
            "x.toml:3: hypervisor.kernels: unknown key;",
            "what may stand here: memory, console",
        )],
    );
    refused(
        &with("[[channel]]", "[[chanel]]"),
        &[(
            "x.toml:33: chanel: unknown key; did you mean \"channel\"?",
            "partition, channel",
        )],
    );
    refused(
        &with("count = 8", "coun = 8"),
        &[
            (
                "x.toml:24: partition[0].ports[0].coun: unknown key",
                "base, count",
            ),
            (
                "x.toml:24: partition[0].ports[0].count: missing",
                "add count = 8",
            ),
        ],
    );
}

#[test]
fn wrong_types_show_a_right_one() {
    refused(
        &with("cpus = [4]", "cpus = 4"),
        &[(
            "x.toml:29: partition[1].cpus: a bare number does not fit",
            "write cpus = [2]",
        )],
    );
    refused(
        &with("autostart = false", "autostart = \"no\""),
        &[(
            "x.toml:19: partition[0].autostart: a string",
            "write autostart = true",
        )],
    );
    refused(
        "linux = 5",
        &[("x.toml:1: linux: a bare number", "the line [linux]")],
    );
    refused(
        "[linux]\ncpus = [0]\nkernel = 'k'\n[partition]\nname = 'a'",
        &[("x.toml:4: partition: there may be several", "[[partition]]")],
    );
    refused(
        "[[partitions]]",
        &[(
            "x.toml:1: partitions: unknown key; did you mean \"partition\"?",
            "",
        )],
    );
    refused(
        "partition = [7]",
        &[(
            "x.toml:1: partition[0]: a bare number",
            "the line [[partition]]",
        )],
    );
}

#[test]
fn missing_keys_show_an_example() {
    refused(
        &with("kernel = \"vmlinuz\"\n", ""),
        &[(
            "x.toml:5: linux.kernel: missing",
            "add kernel = \"vmlinuz\"",
        )],
    );
    refused(
        "[[partition]]\n\n[[partition]]\nname = \"a\"\ncpus = [1]\nmemory = \"4M\"\nprogram = \"a\"",
        &[
            (
                "x.toml:1: partition[0].name: missing",
                "add name = \"spin\"",
            ),
            ("x.toml:1: partition[0].cpus: missing", "add cpus = [2]"),
            (
                "x.toml:1: partition[0].memory: missing",
                "add memory = \"64M\"",
            ),
            (
                "x.toml:1: partition[0].program: missing",
                "add program = \"spin.elf\"",
            ),
        ],
    );
}

#[test]
fn sizes_need_a_unit_and_must_be_possible() {
    refused(
        &with("\"64M\"", "67108864"),
        &[(
            "x.toml:15: partition[0].memory: 67108864 has no unit",
            "as in memory = \"64M\"",
        )],
    );
    refused(
        &with("\"64M\"", "\"64MB\""),
        &[(
            "x.toml:15: partition[0].memory: \"64MB\" is no size",
            "as in memory = \"64M\"",
        )],
    );
    refused(
        &with("\"64M\"", "\"2M\""),
        &[(
            "x.toml:15: partition[0].memory: 2M is too small",
            "multiple of 2M from 4M to 128G",
        )],
    );
    refused(
        &with("\"64M\"", "\"5M\""),
        &[(
            "x.toml:15: partition[0].memory: 5M is not a whole number",
            "from 4M to 128G",
        )],
    );
    refused(
        &with("\"32M\"", "\"5G\""),
        &[(
            "x.toml:2: hypervisor.memory: 5G is too large",
            "multiple of 2M from 8M to 4G",
        )],
    );
    refused(
        &with("\"64K\"", "\"2K\""),
        &[(
            "x.toml:36: channel[0].size: 2K is too small",
            "power of two from 4K to 64M",
        )],
    );
    refused(
        &with("\"64K\"", "\"48K\""),
        &[(
            "x.toml:36: channel[0].size: 48K is no power of two",
            "power of two from 4K to 64M",
        )],
    );
    let five = (0..5).map(|n| {
        format!("[[channel]]\nname = 'c{n}'\nbetween = ['linux', 'spin']\nsize = '64M'\n")
    });
    refused(
        &with("[[channel]]", &(five.collect::<String>() + "[[channel]]")),
        &[(
            "x.toml:52: channel[4].size: with this the channels have 320M",
            "256M together at most",
        )],
    );
}

#[test]
fn closed_sets_are_listed() {
    refused(
        &with("\"strict\"", "\"strcit\""),
        &[(
            "x.toml:18: partition[0].dataplane[0]: \"strcit\" is unknown; did you mean \"strict\"?",
            "use one of \"quiesce\", \"strict\", \"debug\", \"populate\"",
        )],
    );
    refused(
        &with("\"strict\", \"populate\"", "\"strict\", \"strict\""),
        &[(
            "x.toml:18: partition[0].dataplane[1]: listed twice",
            "list each flag once",
        )],
    );
    refused(
        &with("\"com2\"", "\"ttyS0\""),
        &[(
            "x.toml:3: hypervisor.console: \"ttyS0\" is unknown;",
            "use one of \"com1\", \"com2\", \"com3\", \"com4\", \"none\"",
        )],
    );
    refused(
        &with("on_violation = \"restart\"", "on_violation = \"die\""),
        &[(
            "x.toml:20: partition[0].on_violation: \"die\" is unknown",
            "\"report\"",
        )],
    );
    refused(
        &with("on_violation = \"restart\"", "on_violation = \"stop\""),
        &[
            (
                "x.toml:21: partition[0].max_restarts: only restarts have",
                "or leave this out",
            ),
            (
                "x.toml:22: partition[0].restart_window: only restarts have",
                "or leave this out",
            ),
        ],
    );
    refused(
        &with("max_restarts = 5", "max_restarts = 0"),
        &[(
            "x.toml:21: partition[0].max_restarts: 0 is out of range",
            "max_restarts = 3",
        )],
    );
}
