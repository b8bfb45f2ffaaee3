//! The instructions. Each says which exception it raised, if it did.

/// Runs an instruction. The runtime's handler of exceptions looks for the
/// faulting address in the section `.recovery` and goes on behind it, with
/// R10 = the vector and bit 63. Entries are for the instruction itself (faults)
/// and for the one behind it (traps).
macro_rules! attempt {
    ($code:expr $(, $operand:ident($($kind:tt)*) $value:expr $(=> $out:tt)?)*) => {{
        let mut r10 = 0u64;
        core::arch::asm!(
            "2:", $code, "3:", "nop",
            ".pushsection .recovery, \"a\"",
            ".quad 2b, 3b, 3b, 3b",
            ".popsection",
            $($operand($($kind)*) $value $(=> $out)?,)*
            inout("r10") r10,
            options(nostack),
        );
        crate::raw::result(r10)
    }};
}
pub(crate) use attempt;

/// What R10 says.
pub(crate) const fn result(r10: u64) -> Result<(), u8> {
    if r10 >> 63 == 0 {
        Ok(())
    } else {
        Err(r10.to_le_bytes()[0])
    }
}

/// RDMSR.
pub(crate) fn rdmsr(index: u32) -> Result<u64, u8> {
    let (mut low, mut high) = (0u64, 0u64);
    // SAFETY: reads.
    unsafe { attempt!("rdmsr", in("ecx") index, inout("rax") low, inout("rdx") high) }?;
    Ok(high << 32 | low & 0xffff_ffff)
}

/// WRMSR.
pub(crate) fn wrmsr(index: u32, value: u64) -> Result<(), u8> {
    // SAFETY: none of the MSRs that a partition may write is used by compiled
    // code: no segment base, no system call, no page is marked NX.
    unsafe { attempt!("wrmsr", in("ecx") index, in("rax") value, in("rdx") value >> 32) }
}

/// XSETBV.
pub(crate) fn xsetbv(index: u32, value: u64) -> Result<(), u8> {
    // SAFETY: compiled code uses no extended state.
    unsafe { attempt!("xsetbv", in("ecx") index, in("rax") value, in("rdx") value >> 32) }
}

macro_rules! control_registers {
    ($($read:ident $write:ident $name:literal;)*) => {$(
        #[doc = concat!("Reads ", $name, ".")]
        pub(crate) fn $read() -> Result<u64, u8> {
            let mut value = 0u64;
            // SAFETY: reads.
            unsafe { attempt!(concat!("mov rax, ", $name), inout("rax") value) }?;
            Ok(value)
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The program goes on with it, or the caller wants its end.
        pub(crate) unsafe fn $write(value: u64) -> Result<(), u8> {
            // SAFETY: the caller's.
            unsafe { attempt!(concat!("mov ", $name, ", rax"), in("rax") value) }
        }
    )*};
}

control_registers! {
    read_cr0 write_cr0 "cr0";
    read_cr3 write_cr3 "cr3";
    read_cr4 write_cr4 "cr4";
    read_dr0 write_dr0 "dr0";
    read_dr1 write_dr1 "dr1";
    read_dr4 write_dr4 "dr4";
    read_dr6 write_dr6 "dr6";
    read_dr7 write_dr7 "dr7";
}

/// Writes CR8: the local APIC's task priority.
pub(crate) fn write_cr8(value: u64) -> Result<(), u8> {
    // SAFETY: only says which interrupts wait.
    unsafe { attempt!("mov cr8, rax", in("rax") value) }
}

macro_rules! ports {
    ($($type:ty: $in:ident $out:ident $ins:ident $outs:ident $register:literal $suffix:literal;)*) => {$(
        /// IN.
        pub(crate) fn $in(port: u16) -> Result<$type, u8> {
            let mut value = 0u64;
            // SAFETY: reads.
            unsafe {
                attempt!(concat!("in ", $register, ", dx"), in("dx") port, inout("rax") value)
            }?;
            #[expect(clippy::cast_possible_truncation, reason = "the low part was read")]
            Ok(value as $type)
        }

        /// OUT of ones.
        pub(crate) fn $out(port: u16) -> Result<(), u8> {
            // SAFETY: the partition has no port.
            unsafe {
                attempt!(concat!("out dx, ", $register), in("dx") port, in("rax") u64::MAX)
            }
        }

        /// INS, repeated.
        pub(crate) fn $ins(port: u16, buffer: &mut [u8; 32]) -> Result<(), u8> {
            // SAFETY: at most 16 bytes of the buffer are written.
            unsafe {
                attempt!(concat!("rep ins", $suffix), in("dx") port,
                    inout("rdi") buffer.as_mut_ptr() => _, inout("rcx") 4u64 => _)
            }
        }

        /// OUTS, repeated.
        pub(crate) fn $outs(port: u16, buffer: &[u8; 32]) -> Result<(), u8> {
            // SAFETY: reads 16 bytes of the buffer; the partition has no port.
            unsafe {
                attempt!(concat!("rep outs", $suffix), in("dx") port,
                    inout("rsi") buffer.as_ptr() => _, inout("rcx") 4u64 => _)
            }
        }
    )*};
}

ports! {
    u8: in8 out8 ins8 outs8 "al" "b";
    u16: in16 out16 ins16 outs16 "ax" "w";
    u32: in32 out32 ins32 outs32 "eax" "d";
}

macro_rules! bytes {
    ($($name:literal = $($byte:literal)+;)*) => {
        /// Instructions that the assembler may not know, or knows only for
        /// one vendor, each with its name. All registers that they read hold
        /// `value`; RAX, RCX and RDX may change.
        pub(crate) const INSTRUCTIONS: &[(&str, fn(u64) -> Result<(), u8>)] = &[$((
            $name,
            |value| {
                // SAFETY: a privileged instruction that a partition may not
                // execute, or that changes nothing that compiled code uses;
                // memory operands are [rsp-256], below the stack's end.
                unsafe {
                    attempt!(concat!($(".byte ", $byte, "\n",)+),
                        inout("rax") value => _, inout("rcx") value => _,
                        inout("rdx") value => _, in("rsi") value, in("rdi") value)
                }
            },
        ),)*];
    };
}

// No prefixed forms of what exits (VMGEXIT, WBNOINVD): a processor that does
// not save the next RIP is told a length without prefixes.
// Intel SDM vol. 3, chapter "VMX Instruction Reference", and vol. 2; AMD APM
// vol. 3, "System Instruction Reference". [rsp-256] is ModRM 0x84+reg*8, SIB
// 0x24, displacement -256.
bytes! {
    "vmrun" = "0x0f" "0x01" "0xd8";
    "vmload" = "0x0f" "0x01" "0xda";
    "vmsave" = "0x0f" "0x01" "0xdb";
    "stgi" = "0x0f" "0x01" "0xdc";
    "clgi" = "0x0f" "0x01" "0xdd";
    "skinit" = "0x0f" "0x01" "0xde";
    "invlpga" = "0x0f" "0x01" "0xdf";
    "vmxon" = "0xf3" "0x0f" "0xc7" "0xb4" "0x24" "0,0xff,0xff,0xff";
    "vmclear" = "0x66" "0x0f" "0xc7" "0xb4" "0x24" "0,0xff,0xff,0xff";
    "vmptrld" = "0x0f" "0xc7" "0xb4" "0x24" "0,0xff,0xff,0xff";
    "vmptrst" = "0x0f" "0xc7" "0xbc" "0x24" "0,0xff,0xff,0xff";
    "vmread" = "0x0f" "0x78" "0xc8";
    "vmwrite" = "0x0f" "0x79" "0xc8";
    "vmlaunch" = "0x0f" "0x01" "0xc2";
    "vmresume" = "0x0f" "0x01" "0xc3";
    "vmxoff" = "0x0f" "0x01" "0xc4";
    "vmfunc" = "0x0f" "0x01" "0xd4";
    "invept" = "0x66" "0x0f" "0x38" "0x80" "0x84" "0x24" "0,0xff,0xff,0xff";
    "invvpid" = "0x66" "0x0f" "0x38" "0x81" "0x84" "0x24" "0,0xff,0xff,0xff";
    "invpcid" = "0x66" "0x0f" "0x38" "0x82" "0x84" "0x24" "0,0xff,0xff,0xff";
    "getsec" = "0x0f" "0x37";
    "rsm" = "0x0f" "0xaa";
    "encls" = "0x0f" "0x01" "0xcf";
    "enclv" = "0x0f" "0x01" "0xc0";
    "pconfig" = "0x0f" "0x01" "0xc5";
    "monitor" = "0x0f" "0x01" "0xc8";
    "mwait" = "0x0f" "0x01" "0xc9";
    "monitorx" = "0x0f" "0x01" "0xfa";
    "mwaitx" = "0x0f" "0x01" "0xfb";
    "rdpru" = "0x0f" "0x01" "0xfd";
    "invlpgb" = "0x0f" "0x01" "0xfe";
    "tlbsync" = "0x0f" "0x01" "0xff";
    "psmash" = "0xf3" "0x0f" "0x01" "0xff";
    "pvalidate" = "0xf2" "0x0f" "0x01" "0xff";
    "invd" = "0x0f" "0x08";
    "wbinvd" = "0x0f" "0x09";
    "rdpmc" = "0x0f" "0x33";
    "xgetbv" = "0x0f" "0x01" "0xd0";
    "rdtscp" = "0x0f" "0x01" "0xf9";
    "icebp" = "0xf1";
    "int3" = "0xcc";
    "ud2" = "0x0f" "0x0b";
    "ud0" = "0x0f" "0xff" "0xc0";
    "sysexit" = "0x0f" "0x35";
    "int 6" = "0xcd" "0x06";
    "ltr" = "0x0f" "0x00" "0xd8";
    "lldt" = "0x0f" "0x00" "0xd0";
    "15 prefixes" = "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x66" "0x0f" "0x32";
}

/// VMCALL or VMMCALL with a number that may be anything; the one of the other
/// vendor raises #UD.
pub(crate) fn hypercall_of(vmmcall: bool, number: u64) -> Result<u64, u8> {
    let mut rax = number;
    // SAFETY: the hypervisor changes RAX alone (cloister_abi::hypercall).
    unsafe {
        if vmmcall {
            attempt!("vmmcall", inout("rax") rax, in("rdi") 0u64)
        } else {
            attempt!("vmcall", inout("rax") rax, in("rdi") 0u64)
        }
    }?;
    Ok(rax)
}

/// CPUID with this leaf.
pub(crate) fn cpuid(leaf: u32) {
    let _ = core::hint::black_box(core::arch::x86_64::__cpuid(leaf));
}
