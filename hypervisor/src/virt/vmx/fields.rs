//! The VMCS fields that Cloister uses (Intel SDM vol. 3, appendix "Field
//! Encoding in VMCS").

use cloister_core::vmcs::{
    Control, Field, Guest, Host, Injection, Natural, ReadOnly, W16, W32, W64,
};
use x86::vmx::vmcs::{control, guest, host, ro};

use super::vmcs::SegmentFields;

macro_rules! fields {
    ($($access:ident, $width:ident { $($name:ident = $encoding:expr;)* })*) => {
        $($(pub(super) const $name: Field<$width, $access> = Field::new($encoding);)*)*
    };
}

fields! {
    Control, W16 {
        VPID = control::VPID;
    }
    Control, W64 {
        IO_BITMAP_A = control::IO_BITMAP_A_ADDR_FULL;
        IO_BITMAP_B = control::IO_BITMAP_B_ADDR_FULL;
        MSR_BITMAP = control::MSR_BITMAPS_ADDR_FULL;
        EPT_POINTER = control::EPTP_FULL;
        XSS_EXITING_BITMAP = control::XSS_EXITING_BITMAP_FULL;
    }
    Control, W32 {
        PIN_BASED = control::PINBASED_EXEC_CONTROLS;
        PRIMARY = control::PRIMARY_PROCBASED_EXEC_CONTROLS;
        SECONDARY = control::SECONDARY_PROCBASED_EXEC_CONTROLS;
        EXIT_CONTROLS = control::VMEXIT_CONTROLS;
        ENTRY_CONTROLS = control::VMENTRY_CONTROLS;
        EXCEPTION_BITMAP = control::EXCEPTION_BITMAP;
        PAGE_FAULT_MASK = control::PAGE_FAULT_ERR_CODE_MASK;
        PAGE_FAULT_MATCH = control::PAGE_FAULT_ERR_CODE_MATCH;
        CR3_TARGET_COUNT = control::CR3_TARGET_COUNT;
        EXIT_MSR_STORE_COUNT = control::VMEXIT_MSR_STORE_COUNT;
        EXIT_MSR_LOAD_COUNT = control::VMEXIT_MSR_LOAD_COUNT;
        ENTRY_MSR_LOAD_COUNT = control::VMENTRY_MSR_LOAD_COUNT;
    }
    Control, Natural {
        CR0_MASK = control::CR0_GUEST_HOST_MASK;
        CR4_MASK = control::CR4_GUEST_HOST_MASK;
    }
    Injection, W32 {
        ENTRY_EVENT = control::VMENTRY_INTERRUPTION_INFO_FIELD;
        ENTRY_ERROR = control::VMENTRY_EXCEPTION_ERR_CODE;
        ENTRY_LENGTH = control::VMENTRY_INSTRUCTION_LEN;
    }
    Injection, Natural {
        CR0_SHADOW = control::CR0_READ_SHADOW;
        CR4_SHADOW = control::CR4_READ_SHADOW;
    }
    ReadOnly, W64 {
        GUEST_PHYSICAL_ADDRESS = ro::GUEST_PHYSICAL_ADDR_FULL;
    }
    ReadOnly, W32 {
        INSTRUCTION_ERROR = ro::VM_INSTRUCTION_ERROR;
        EXIT_EVENT = ro::VMEXIT_INTERRUPTION_INFO;
        EXIT_ERROR = ro::VMEXIT_INTERRUPTION_ERR_CODE;
        VECTORING_EVENT = ro::IDT_VECTORING_INFO;
        VECTORING_ERROR = ro::IDT_VECTORING_ERR_CODE;
        INSTRUCTION_LENGTH = ro::VMEXIT_INSTRUCTION_LEN;
    }
    ReadOnly, Natural {
        QUALIFICATION = ro::EXIT_QUALIFICATION;
    }
    Guest, W64 {
        LINK_POINTER = guest::LINK_PTR_FULL;
        DEBUGCTL = guest::IA32_DEBUGCTL_FULL;
        PAT = guest::IA32_PAT_FULL;
        EFER = guest::IA32_EFER_FULL;
    }
    Guest, W32 {
        GDTR_LIMIT = guest::GDTR_LIMIT;
        IDTR_LIMIT = guest::IDTR_LIMIT;
        INTERRUPTIBILITY = guest::INTERRUPTIBILITY_STATE;
        ACTIVITY = guest::ACTIVITY_STATE;
        SYSENTER_CS = guest::IA32_SYSENTER_CS;
    }
    Guest, Natural {
        CR0 = guest::CR0;
        CR3 = guest::CR3;
        CR4 = guest::CR4;
        GDTR_BASE = guest::GDTR_BASE;
        IDTR_BASE = guest::IDTR_BASE;
        DR7 = guest::DR7;
        RSP = guest::RSP;
        RIP = guest::RIP;
        RFLAGS = guest::RFLAGS;
        PENDING_DEBUG = guest::PENDING_DBG_EXCEPTIONS;
        SYSENTER_ESP = guest::IA32_SYSENTER_ESP;
        SYSENTER_EIP = guest::IA32_SYSENTER_EIP;
    }
    Host, W16 {
        HOST_ES = host::ES_SELECTOR;
        HOST_CS = host::CS_SELECTOR;
        HOST_SS = host::SS_SELECTOR;
        HOST_DS = host::DS_SELECTOR;
        HOST_FS = host::FS_SELECTOR;
        HOST_GS = host::GS_SELECTOR;
        HOST_TR = host::TR_SELECTOR;
    }
    Host, W64 {
        HOST_PAT = host::IA32_PAT_FULL;
        HOST_EFER = host::IA32_EFER_FULL;
    }
    Host, W32 {
        HOST_SYSENTER_CS = host::IA32_SYSENTER_CS;
    }
    Host, Natural {
        HOST_CR0 = host::CR0;
        HOST_CR3 = host::CR3;
        HOST_CR4 = host::CR4;
        HOST_FS_BASE = host::FS_BASE;
        HOST_GS_BASE = host::GS_BASE;
        HOST_TR_BASE = host::TR_BASE;
        HOST_GDTR_BASE = host::GDTR_BASE;
        HOST_IDTR_BASE = host::IDTR_BASE;
        HOST_SYSENTER_ESP = host::IA32_SYSENTER_ESP;
        HOST_SYSENTER_EIP = host::IA32_SYSENTER_EIP;
        HOST_RSP = host::RSP;
        HOST_RIP = host::RIP;
    }
}

macro_rules! segments {
    ($($name:ident = $selector:ident, $base:ident, $limit:ident, $rights:ident;)*) => {
        $(pub(super) const $name: SegmentFields = SegmentFields {
            selector: Field::new(guest::$selector),
            base: Field::new(guest::$base),
            limit: Field::new(guest::$limit),
            access_rights: Field::new(guest::$rights),
        };)*
    };
}

segments! {
    ES = ES_SELECTOR, ES_BASE, ES_LIMIT, ES_ACCESS_RIGHTS;
    CS = CS_SELECTOR, CS_BASE, CS_LIMIT, CS_ACCESS_RIGHTS;
    SS = SS_SELECTOR, SS_BASE, SS_LIMIT, SS_ACCESS_RIGHTS;
    DS = DS_SELECTOR, DS_BASE, DS_LIMIT, DS_ACCESS_RIGHTS;
    FS = FS_SELECTOR, FS_BASE, FS_LIMIT, FS_ACCESS_RIGHTS;
    GS = GS_SELECTOR, GS_BASE, GS_LIMIT, GS_ACCESS_RIGHTS;
    LDTR = LDTR_SELECTOR, LDTR_BASE, LDTR_LIMIT, LDTR_ACCESS_RIGHTS;
    TR = TR_SELECTOR, TR_BASE, TR_LIMIT, TR_ACCESS_RIGHTS;
}
