//! The VMCS: its memory, and how its fields are read and written. What a field
//! allows is in its type (`cloister_core::vmcs`).

use core::arch::{asm, global_asm};
use core::marker::PhantomData;

use cloister_core::vmcs::{
    Access, Critical, Field, Guest, Harmless, Natural, W16, W32, Width, Write,
};

use crate::arch::memory::FramePool;
use crate::virt::Unsupported;

/// A segment register's four fields, or of a table register base and limit.
#[derive(Clone, Copy)]
pub(crate) struct SegmentFields {
    pub(super) selector: Field<W16, Guest>,
    pub(super) base: Field<Natural, Guest>,
    pub(super) limit: Field<W32, Guest>,
    pub(super) access_rights: Field<W32, Guest>,
}

/// The current VMCS of this core. As long as one exists on a core no other is
/// made there, and nothing but [`Vmcs::load`] executes VMPTRLD or VMCLEAR: so
/// VMREAD and VMWRITE always reach it. It cannot leave its core.
pub(crate) struct Vmcs {
    not_send: PhantomData<*mut ()>,
}

const NO_CURRENT_VMCS: u64 = u64::MAX;

impl Vmcs {
    /// Makes a cleared VMCS of this core and makes it current.
    ///
    /// # Errors
    /// When the pool is empty, a VMCS is current already, or the processor
    /// refuses the region.
    ///
    /// # Safety
    /// This core is in VMX root operation.
    pub(super) unsafe fn load(pool: &FramePool, revision: u32) -> Result<Self, Unsupported> {
        let mut current = 0_u64;
        // SAFETY: VMX root operation; VMPTRST writes eight bytes.
        unsafe { asm!("vmptrst [{}]", in(reg) &raw mut current, options(nostack)) };
        if current != NO_CURRENT_VMCS {
            return Err(Unsupported {
                what: "this core already has a virtual core",
                value: current,
            });
        }
        let Some(region) = pool.page() else {
            return Err(Unsupported {
                what: "no memory left for a VMCS: raise [hypervisor] memory",
                value: 0,
            });
        };
        // SAFETY: a zeroed page is a valid array of integers.
        let words: &'static mut [u32; 1024] = unsafe { region.leak() };
        words[0] = revision;
        let address = core::ptr::from_mut(words) as u64;
        let (cleared, loaded): (u8, u8);
        // SAFETY: VMX root operation; the region is ours for ever, a page, and
        // carries the revision identifier (SDM vol. 3, "VMCS Data").
        unsafe {
            asm!("vmclear [{}]", "setnbe {}", in(reg) &raw const address, out(reg_byte) cleared);
            asm!("vmptrld [{}]", "setnbe {}", in(reg) &raw const address, out(reg_byte) loaded);
        }
        if cleared == 0 || loaded == 0 {
            return Err(Unsupported {
                what: "VMCLEAR or VMPTRLD refuses the VMCS",
                value: address,
            });
        }
        Ok(Self {
            not_send: PhantomData,
        })
    }

    /// Reads a field.
    #[inline(always)]
    pub(super) fn read<W: Width, A: Access>(&self, field: Field<W, A>) -> W::Value {
        let value: u64;
        // SAFETY: a VMCS is current (see `Vmcs`); VMREAD changes no memory that
        // Rust knows. If it fails control does not come back.
        unsafe {
            asm!(
                "vmread {value}, {field:r}",
                "jbe {failed}",
                value = lateout(reg) value,
                field = in(reg) field.encoding(),
                failed = sym cloister_vmx_instruction_failed,
                options(nomem),
            );
        }
        W::narrow(value)
    }

    /// Reads a field that has been read or written before, as 64 bits and
    /// without looking at the flags: for the path of every exit, where the
    /// check could not fail any more.
    #[inline(always)]
    pub(super) fn read_again<W: Width, A: Access>(&self, field: Field<W, A>) -> u64 {
        let value: u64;
        // SAFETY: as in `read`; a failed VMREAD would leave any value.
        unsafe {
            asm!(
                "vmread {value}, {field:r}",
                value = lateout(reg) value,
                field = in(reg) field.encoding(),
                options(nomem, nostack),
            );
        }
        value
    }

    /// Writes a guest-state field that has been written before, without
    /// looking at the flags: see [`Self::read_again`].
    #[inline(always)]
    pub(super) fn write_again<W: Width>(&self, field: Field<W, Guest>, value: W::Value) {
        let write = field.write(value);
        // SAFETY: a VMCS is current, and the field concerns the guest alone.
        unsafe {
            asm!(
                "vmwrite {field:r}, {value}",
                value = in(reg) write.value(),
                field = in(reg) write.encoding(),
                options(nomem, nostack),
            );
        }
    }

    /// Writes a field that cannot hurt the hypervisor.
    #[inline(always)]
    pub(super) fn write<W: Width, A: Harmless>(&self, field: Field<W, A>, value: W::Value) {
        // SAFETY: the field concerns the guest alone.
        unsafe { self.execute(field.write(value)) }
    }

    /// Writes a control or host-state field.
    ///
    /// # Safety
    /// With the new value the guest still cannot reach what is not its own,
    /// and an exit leads into the hypervisor on this core's own tables.
    #[inline(always)]
    pub(super) unsafe fn write_critical<W: Width, A: Critical>(
        &self,
        field: Field<W, A>,
        value: W::Value,
    ) {
        // SAFETY: the caller vouches for the value.
        unsafe { self.execute(field.write_critical(value)) }
    }

    #[inline(always)]
    unsafe fn execute(&self, write: Write) {
        // SAFETY: a VMCS is current; the caller vouches for the value.
        unsafe {
            asm!(
                "vmwrite {field:r}, {value}",
                "jbe {failed}",
                value = in(reg) write.value(),
                field = in(reg) write.encoding(),
                failed = sym cloister_vmx_instruction_failed,
                options(nomem),
            );
        }
    }
}

// VMREAD and VMWRITE jump here when CF or ZF is set (SDM vol. 3,
// "Conventions": VMfail). RBP is still the frame of the function that did it.
global_asm!(
    "cloister_vmx_instruction_failed:",
    "call {failed}",
    "ud2",
    failed = sym instruction_failed,
);

unsafe extern "C" {
    fn cloister_vmx_instruction_failed() -> !;
}

/// Every field that Cloister uses exists on every processor that
/// `Vendor::check` accepts, and the VMCS is current: a failure is our own bug.
extern "sysv64" fn instruction_failed() -> ! {
    panic!("VMREAD or VMWRITE failed: wrong field, or no current VMCS");
}
