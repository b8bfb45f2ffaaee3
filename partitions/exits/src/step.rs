//! The words of the argument string, done in order.
//!
//! | word | what it does | exits it must cause |
//! |---|---|---|
//! | `cpuid=N` | CPUID, N times | N cpuid |
//! | `msr=I` | MSR of later words; 0x480 (IA32_VMX_BASIC), which no partition may have, at first | |
//! | `rdmsr=N` | RDMSR of it; goes on after #GP | N rdmsr |
//! | `wrmsr=N` | WRMSR of 0 to it; goes on after #GP | N wrmsr |
//! | `port=P` | port of later words; 0x80 at first | |
//! | `in=N`, `out=N` | IN, or OUT of 0, one byte | N port-in, port-out |
//! | `hypercall=N` | the null hypercall | N hypercall |
//! | `badcall=N` | a hypercall that does not exist | N hypercall |
//! | `touch=N` | reads N places never touched before. Memory is mapped on first touch by the largest page that fits, so they are 2 MiB apart, or 1 GiB apart from 1 GiB of memory on | N nested-page-fault; 0 after POPULATE |
//! | `xsetbv=N` | XSETBV of what XCR0 holds | N xsetbv |
//! | `virt=N` | VMRUN (AMD), VMXON (Intel); goes on after #UD | N virtualization |
//! | `wbinvd=N`, `invd=N`, `dr=N`, `monitor=N` | WBINVD, INVD, MOV from DR7, MONITOR | N cache-control twice, control-register, halt |
//! | `step=N` | single-steps one instruction; its own handler takes the #DB | N exception |
//! | `apic=N` | writes the EOI register of the xAPIC page. Without `apic = true` this ends the partition | N apic-write |
//! | `tlb=N` | writes CR3 | 0 |
//! | `int3=N`, `div0=N` | #BP, #DE, which its own handler takes | 0 |
//! | `wait=CYCLES` | waits that long by TSC | 0 |
//! | `sti=1`, `sti=0` | interrupts on, off | 0 |
//! | `print=TEXT`, `counters` | prints TEXT, or its own counters | 0 |
//! | `enter=A+B` | set_dataplane with flags by name, `none` or a number; it must succeed | 1 hypercall |
//! | `refuse=A+B` | the same; it must fail | 1 hypercall |
//! | `leave` | set_dataplane(0) | 1 hypercall |
//! | `finish=CODE` | the check, then finish(CODE) if it passes | |
//! | `foreign=ADDRESS` | reads a guest-physical address; ends the partition if it is not its own | 1 nested-page-fault |
//! | `triple`, `crash`, `panic` | triple fault; #UD without a handler; Rust panic | |
//! | `hlt`, `loop` | CLI and HLT; an endless loop | |

use core::fmt;

use cloister_runtime::Dataplane;
use cloister_runtime::args::{self, BadNumber};

/// One word of the argument string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Something done a number of times.
    Repeat(Action, u64),
    /// MSR of later steps.
    Msr(u32),
    /// Port of later steps.
    Port(u16),
    /// Wait for TSC cycles.
    Wait(u64),
    /// Interrupts on or off.
    Sti(bool),
    /// Print this text.
    Print(&'a str),
    /// Print the core's counters.
    Counters,
    /// `set_dataplane`, which must succeed.
    Enter(Dataplane),
    /// `set_dataplane`, which must fail.
    Refuse(Dataplane),
    /// Read this guest-physical address.
    Foreign(u64),
    /// Check, then finish with this code.
    Finish(u64),
    /// An end that is not checked.
    End(End),
}

macro_rules! named {
    ($(#[$type_doc:meta])* $type:ident: $($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        $(#[$type_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$doc])* $variant,)* }

        impl $type {
            /// Its word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

named! {
    /// What can be done a number of times.
    Action:
    /// CPUID.
    Cpuid = "cpuid",
    /// RDMSR.
    Rdmsr = "rdmsr",
    /// WRMSR.
    Wrmsr = "wrmsr",
    /// IN.
    In = "in",
    /// OUT.
    Out = "out",
    /// The null hypercall.
    Hypercall = "hypercall",
    /// A hypercall that does not exist.
    Badcall = "badcall",
    /// A first touch of memory.
    Touch = "touch",
    /// XSETBV.
    Xsetbv = "xsetbv",
    /// VMRUN or VMXON.
    Virt = "virt",
    /// WBINVD.
    Wbinvd = "wbinvd",
    /// INVD.
    Invd = "invd",
    /// MOV from DR7.
    Dr = "dr",
    /// MONITOR.
    Monitor = "monitor",
    /// A single step.
    Step = "step",
    /// A write to the xAPIC page.
    Apic = "apic",
    /// A TLB flush.
    Tlb = "tlb",
    /// A breakpoint.
    Int3 = "int3",
    /// A division by 0.
    Div0 = "div0",
}

named! {
    /// What ends the program, or makes it hang.
    End:
    /// A triple fault.
    Triple = "triple",
    /// An exception without a handler.
    Crash = "crash",
    /// A Rust panic.
    Panic = "panic",
    /// HLT with interrupts off.
    Hlt = "hlt",
    /// An endless loop.
    Loop = "loop",
}

/// The steps of an argument string, or what is wrong with a word of it.
pub fn parse(text: &str) -> impl Iterator<Item = Result<Step<'_>, Error<'_>>> {
    args::pairs(text).map(|(key, value)| step(key, value))
}

fn step<'a>(key: &'a str, value: &'a str) -> Result<Step<'a>, Error<'a>> {
    let number = || args::number(value).map_err(|error| Error::Number(key, error));
    let flags = || args::flags(value).ok_or(Error::Flags(key, value));
    let too_big = Error::TooBig(key, value);
    if let Some(action) = Action::from_name(key) {
        return Ok(Step::Repeat(action, number()?));
    }
    if let Some(end) = End::from_name(key) {
        return without_value(key, value, Step::End(end));
    }
    match key {
        "msr" => Ok(Step::Msr(u32::try_from(number()?).map_err(|_| too_big)?)),
        "port" => Ok(Step::Port(u16::try_from(number()?).map_err(|_| too_big)?)),
        "wait" => number().map(Step::Wait),
        "sti" => Ok(Step::Sti(number()? != 0)),
        "print" => Ok(Step::Print(value)),
        "counters" => without_value(key, value, Step::Counters),
        "enter" => flags().map(Step::Enter),
        "refuse" => flags().map(Step::Refuse),
        "leave" => without_value(key, value, Step::Enter(Dataplane::empty())),
        "foreign" => number().map(Step::Foreign),
        "finish" => number().map(Step::Finish),
        _ => Err(Error::Unknown(key)),
    }
}

fn without_value<'a>(key: &'a str, value: &'a str, step: Step<'a>) -> Result<Step<'a>, Error<'a>> {
    match value {
        "" => Ok(step),
        _ => Err(Error::NoValue(key)),
    }
}

/// What is wrong with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<'a> {
    /// No such word.
    Unknown(&'a str),
    /// The value of this word.
    Number(&'a str, BadNumber<'a>),
    /// No MSR or port has this number.
    TooBig(&'a str, &'a str),
    /// No such flags.
    Flags(&'a str, &'a str),
    /// This word has no value.
    NoValue(&'a str),
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(key) => write!(
                f,
                "args: unknown word `{key}`: partitions/exits/src/step.rs lists them"
            ),
            Self::Number(key, error) => write!(f, "args: {key}: {error}"),
            Self::TooBig(key, value) => write!(
                f,
                "args: {key}: {value} is too big: an MSR has 32 bits, a port 16"
            ),
            Self::Flags(key, value) => write!(
                f,
                "args: {key}: `{value}` is neither names of quiesce, strict, debug and populate joined with +, nor none, nor a number"
            ),
            Self::NoValue(key) => write!(f, "args: {key} has no value: write just `{key}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Step<'_>, Error<'_>> {
        let mut steps = parse(text);
        let step = steps.next().unwrap();
        assert!(steps.next().is_none());
        step
    }

    #[test]
    fn steps_keep_their_order() {
        let steps: Vec<_> = parse("cpuid=3 enter=quiesce+strict in=1 leave finish=7").collect();
        assert_eq!(
            steps,
            [
                Ok(Step::Repeat(Action::Cpuid, 3)),
                Ok(Step::Enter(Dataplane::QUIESCE | Dataplane::STRICT)),
                Ok(Step::Repeat(Action::In, 1)),
                Ok(Step::Enter(Dataplane::empty())),
                Ok(Step::Finish(7)),
            ]
        );
    }

    #[test]
    fn values() {
        assert_eq!(one("msr=0xc0010114"), Ok(Step::Msr(0xc001_0114)));
        assert_eq!(one("port=0xffff"), Ok(Step::Port(0xffff)));
        assert_eq!(one("print=a=b"), Ok(Step::Print("a=b")));
        assert_eq!(one("foreign=0x40000000"), Ok(Step::Foreign(1 << 30)));
        assert_eq!(
            one("refuse=0x100"),
            Ok(Step::Refuse(Dataplane::from_bits_retain(0x100)))
        );
        assert_eq!(one("triple"), Ok(Step::End(End::Triple)));
        assert_eq!(one("sti=0"), Ok(Step::Sti(false)));
    }

    #[test]
    fn bad_words_are_named() {
        assert_eq!(one("cpuld=1"), Err(Error::Unknown("cpuld")));
        assert_eq!(
            one("cpuid"),
            Err(Error::Number("cpuid", BadNumber { text: "" }))
        );
        assert_eq!(one("port=0x10000"), Err(Error::TooBig("port", "0x10000")));
        assert_eq!(one("enter=fast"), Err(Error::Flags("enter", "fast")));
        assert_eq!(one("leave=1"), Err(Error::NoValue("leave")));
        assert_eq!(one("hlt=1"), Err(Error::NoValue("hlt")));
    }
}
