//! STRICT: any exit is a violation, with a true record, and the neighbours do
//! not notice.

use anyhow::Result;
use cloister_abi::Reason;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, Part, PartitionState, part, partitions};

use crate::counting::exits;

/// A breach of STRICT to be provoked, and what its record must say.
struct Breach {
    /// Words for `exits`.
    args: &'static str,
    reason: &'static str,
    /// Part of the detail.
    detail: &'static str,
    /// A function among the innermost of the backtrace.
    function: &'static str,
    /// Register numbers in encoding order, with their values.
    registers: &'static [(usize, u64)],
}

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;

/// Innermost functions among which the provoking one must be.
const INNERMOST: usize = 3;

impl Breach {
    fn name(&self) -> String {
        let word = self.args.rsplit(' ').next().unwrap_or_default();
        word.split('=').next().unwrap_or_default().to_owned()
    }

    fn partition(&self, core: u32) -> Part {
        exits(&self.name(), core, &format!("enter=strict {}", self.args))
    }

    fn check(&self, ended: &Ended) -> Result<()> {
        let partition = ended
            .partition(&self.name())?
            .state(PartitionState::Violated)?
            .violations(1)?
            .since_quiesce(1)?;
        let mut violation = partition
            .violation(self.reason)?
            .detail(self.detail)?
            .in_function(self.function, INNERMOST)?;
        for &(number, value) in self.registers {
            violation = violation.register(number, value)?;
        }
        let record = violation.report();
        let core = partition.report().cpus.first();
        violation.check(
            Some(&record.core) == core && record.tsc != 0 && record.cr3.0 != 0,
            format!(
                "core {}, tsc {}, cr3 {}",
                record.core, record.tsc, record.cr3
            ),
        )?;
        Ok(())
    }
}

/// A strict neighbour that runs through all of it.
pub(crate) fn neighbour(core: u32) -> Part {
    part("neighbour", "spin.elf")
        .cores(&format!("[{core}]"))
        .args("quanta=3000000")
        .may("quiesce strict populate")
}

fn provoke(bench: &Bench, breaches: &[Breach]) -> Result<()> {
    provoke_beside(bench, breaches, []).map(|_| ())
}

fn provoke_beside(
    bench: &Bench,
    breaches: &[Breach],
    others: impl IntoIterator<Item = Part>,
) -> Result<Ended> {
    let violators = (1..)
        .zip(breaches)
        .map(|(core, breach)| breach.partition(core));
    let ended = bench
        .system(partitions(
            [neighbour(0)].into_iter().chain(violators).chain(others),
        ))
        .run_to_end()?
        .completed()?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?;
    breaches
        .iter()
        .try_for_each(|breach| breach.check(&ended))?;
    Ok(ended)
}

/// Instructions that exit.
const INSTRUCTIONS: &[Breach] = &[
    Breach {
        args: "cpuid=1",
        reason: "cpuid",
        detail: "leaf 0x0",
        function: "Run::act",
        registers: &[(RAX, 0), (RCX, 0)],
    },
    Breach {
        args: "rdmsr=1",
        reason: "rdmsr",
        detail: "msr 0x480",
        function: "read_msr",
        registers: &[(RCX, 0x480)],
    },
    Breach {
        args: "msr=0x3a wrmsr=1",
        reason: "wrmsr",
        detail: "msr 0x3a",
        function: "write_msr",
        registers: &[(RCX, 0x3a), (RAX, 0), (RDX, 0)],
    },
    Breach {
        args: "port=0x60 in=1",
        reason: "port-in",
        detail: "port 0x60",
        function: "read_port",
        registers: &[(RDX, 0x60)],
    },
    Breach {
        args: "out=1",
        reason: "port-out",
        detail: "port 0x80",
        function: "write_port",
        registers: &[(RDX, 0x80)],
    },
    Breach {
        args: "virt=1",
        reason: "virtualization",
        detail: "",
        function: "virtualization",
        registers: &[],
    },
];

/// XSETBV.
const XSETBV: &[Breach] = &[Breach {
    args: "xsetbv=1",
    reason: "xsetbv",
    detail: "xcr0",
    function: "xsetbv",
    registers: &[(RCX, 0)],
}];

/// First touches, hypercalls, and what a program should not do at all.
const MEMORY_AND_CALLS: &[Breach] = &[
    Breach {
        args: "touch=1",
        reason: "nested-page-fault",
        detail: "gpa 0x200000",
        function: "read_physical",
        registers: &[(RDX, 0x20_0000)],
    },
    Breach {
        args: "foreign=0x80000000",
        reason: "nested-page-fault",
        detail: "gpa 0x80000000",
        function: "read_physical",
        registers: &[(RDX, 0x8000_0000)],
    },
    Breach {
        args: "hypercall=1",
        reason: "hypercall",
        detail: "hypercall 0",
        function: "Run::act",
        registers: &[(RAX, 0)],
    },
    Breach {
        args: "badcall=1",
        reason: "hypercall",
        detail: "hypercall 65535",
        function: "Run::act",
        registers: &[(RAX, 0xffff)],
    },
    Breach {
        args: "wbinvd=1",
        reason: "cache-control",
        detail: "",
        function: "wbinvd",
        registers: &[],
    },
    Breach {
        args: "dr=1",
        reason: "control-register",
        detail: "",
        function: "read_dr7",
        registers: &[],
    },
    Breach {
        args: "triple",
        reason: "triple-fault",
        detail: "",
        function: "triple_fault",
        registers: &[],
    },
];

/// What programs hardly ever do.
const RARE: &[Breach] = &[
    Breach {
        args: "invd=1",
        reason: "cache-control",
        detail: "",
        function: "invd",
        registers: &[],
    },
    Breach {
        args: "monitor=1",
        reason: "halt",
        detail: "",
        function: "monitor",
        registers: &[(RCX, 0)],
    },
    Breach {
        args: "step=1",
        reason: "exception",
        detail: "vector 1",
        function: "single_step",
        registers: &[],
    },
];

/// Each instruction that exits.
pub(crate) fn instructions(bench: &Bench) -> Result<()> {
    provoke(bench, INSTRUCTIONS)
}

/// QEMU 7.2 does not look at SVM's intercept of XSETBV (AMD APM vol. 2,
/// VMCB offset 10h, bit 13).
pub(crate) fn xsetbv(bench: &Bench) -> Result<()> {
    provoke(bench, XSETBV)
}

/// Memory and hypercalls.
pub(crate) fn memory_and_calls(bench: &Bench) -> Result<()> {
    provoke(bench, MEMORY_AND_CALLS)
}

/// INVD, MONITOR, a #DB; and an NMI that another core of the partition sends.
pub(crate) fn rare(bench: &Bench) -> Result<()> {
    let first = 1 + u32::try_from(RARE.len())?;
    let nmi = part("nmi", "probe.elf")
        .cores(&format!("[{first}, {}]", first + 1))
        .args(
            "core=0 enter=strict meet loop core=1 meet wait=100000 nmi=FIRST"
                .replace("FIRST", &first.to_string())
                .as_str(),
        )
        .may("quiesce strict")
        .key("apic = true");
    let ended = provoke_beside(bench, RARE, [nmi])?;
    let violation = ended
        .partition("nmi")?
        .state(PartitionState::Violated)?
        .violations(1)?
        .violation("nmi")?;
    let record = violation.report();
    violation.check(
        record.core == first && !record.backtrace.is_empty(),
        format!("core {}", record.core),
    )?;
    Ok(())
}

/// Where it is shown that a reason breaks STRICT.
enum Shown {
    /// In one of the tables above.
    Here,
    /// By this case.
    By(&'static str),
    /// Nowhere, and why.
    Never(&'static str),
}

/// The closed list: a reason without an answer does not compile.
const fn shown(reason: Reason) -> Shown {
    use Shown::{By, Here, Never};
    match reason {
        Reason::Cpuid
        | Reason::Rdmsr
        | Reason::Wrmsr
        | Reason::PortIn
        | Reason::PortOut
        | Reason::Xsetbv
        | Reason::Hypercall
        | Reason::NestedPageFault
        | Reason::Exception
        | Reason::TripleFault
        | Reason::Halt
        | Reason::CacheControl
        | Reason::ControlRegister
        | Reason::Virtualization => Here,
        Reason::ApicWrite => By("strict-send-interrupt"),
        Reason::Interrupt => By("debug-strict-names-sender"),
        Reason::Nmi => By("strict-rare-exits"),
        Reason::Kick => {
            Never("it is the operator's, and no violation: `operator-touches-no-other`")
        }
        Reason::Init | Reason::Sipi => {
            Never("nobody can send one: the hypervisor emulates every guest's (`hostile-apic`)")
        }
        Reason::TaskSwitch => {
            Never("long mode has none; a program that leaves it first could have one on Intel")
        }
        Reason::MachineCheck => Never("no guest can cause one, and neither machine can be told to"),
        Reason::EntryFailure => {
            Never("a guest state that a processor refuses is a bug of the hypervisor")
        }
        Reason::Other => Never("an exit that is known is none of these"),
    }
}

/// Each reason there is has been thought of, and those of the tables are in
/// them.
pub(crate) fn every_reason(_bench: &Bench) -> Result<()> {
    let tables = [INSTRUCTIONS, XSETBV, MEMORY_AND_CALLS, RARE];
    for &reason in Reason::ALL {
        let mut breaches = tables.iter().copied().flatten();
        let here = breaches.any(|breach| breach.reason == reason.name());
        let holds = match shown(reason) {
            Shown::Here => here,
            Shown::By(case) => !here && crate::CASES.iter().any(|known| known.name == case),
            Shown::Never(why) => !here && !why.is_empty(),
        };
        anyhow::ensure!(
            holds,
            "{}: no case shows that it breaks STRICT",
            reason.name()
        );
    }
    Ok(())
}

/// Leaving STRICT by `set_dataplane(0)` is no violation, nor is what follows.
pub(crate) fn left_in_order(bench: &Bench) -> Result<()> {
    let args =
        "enter=strict+populate touch=2 leave cpuid=3 enter=strict enter=quiesce cpuid=2 leave";
    let ended = bench
        .system(partitions([neighbour(0), exits("orderly", 1, args)]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("orderly")?
        .finished(0)?
        .says("exits: ok")?
        .violations(0)?
        .since_quiesce(2)?
        .exits_of("cpuid", 5)?;
    Ok(())
}

/// `on_violation = "report"`: each breach is recorded, and the program goes
/// on.
pub(crate) fn report_and_go_on(bench: &Bench) -> Result<()> {
    let goes_on = exits("goes-on", 1, "enter=strict cpuid=2 in=1 leave cpuid=4");
    let ended = bench
        .system(partitions([
            neighbour(0),
            goes_on.key("on_violation = \"report\""),
        ]))
        .run_to_end()?
        .completed()?;
    let partition = ended
        .partition("goes-on")?
        .finished(0)?
        .says("exits: ok")?
        .violations(3)?
        .since_quiesce(3)?
        .exits_of("cpuid", 6)?;
    let reasons: Vec<&str> = partition
        .report()
        .violations
        .iter()
        .map(|violation| violation.reason.as_str())
        .collect();
    partition.check(
        reasons == ["cpuid", "cpuid", "port-in"],
        format!("violations {reasons:?}"),
    )?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?;
    Ok(())
}

/// `on_violation = "restart"`: from a clean image, so often and no more.
pub(crate) fn restart(bench: &Bench) -> Result<()> {
    let again = exits("again", 1, "enter=strict cpuid=1")
        .key("on_violation = \"restart\"")
        .key("max_restarts = 2");
    let ended = bench
        .system(partitions([neighbour(0), again]))
        .run_to_end()?
        .completed()?;
    let partition = ended
        .partition("again")?
        .state(PartitionState::Violated)?
        .restarts(2)?
        .violations(3)?
        .exits_of("cpuid", 3)?;
    let starts = partition.lines_with("set_dataplane 0x2 was 0x0");
    partition.check(starts == 3, format!("started {starts} times, expected 3"))?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?;
    Ok(())
}
