//! Indices of MSRs, by the manuals' names (Intel SDM vol. 4; AMD APM vol. 2,
//! appendix A).

pub(super) const TSC: u32 = 0x10;
pub(super) const APIC_BASE: u32 = 0x1b;
pub(super) const TEST_CTRL: u32 = 0x33;
pub(super) const FEATURE_CONTROL: u32 = 0x3a;
pub(super) const TSC_ADJUST: u32 = 0x3b;
pub(super) const SPEC_CTRL: u32 = 0x48;
pub(super) const PRED_CMD: u32 = 0x49;
pub(super) const BIOS_UPDT_TRIG: u32 = 0x79;
pub(super) const BIOS_SIGN_ID: u32 = 0x8b;
pub(super) const SMM_MONITOR_CTL: u32 = 0x9b;
pub(super) const SMBASE: u32 = 0x9e;
pub(super) const XAPIC_DISABLE_STATUS: u32 = 0xbd;
pub(super) const PKG_CST_CONFIG_CONTROL: u32 = 0xe2;
pub(super) const MPERF: u32 = 0xe7;
pub(super) const APERF: u32 = 0xe8;
pub(super) const ARCH_CAPABILITIES: u32 = 0x10a;
pub(super) const FLUSH_CMD: u32 = 0x10b;
pub(super) const SYSENTER_CS: u32 = 0x174;
pub(super) const SYSENTER_EIP: u32 = 0x176;
pub(super) const DEBUGCTL: u32 = 0x1d9;
pub(super) const POWER_CTL: u32 = 0x1fc;
pub(super) const PAT: u32 = 0x277;
pub(super) const VMX_FIRST: u32 = 0x480;
pub(super) const VMX_LAST: u32 = 0x493;
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
pub(super) const X2APIC_FIRST: u32 = 0x800;
pub(super) const X2APIC_ICR: u32 = 0x830;
pub(super) const X2APIC_LAST: u32 = 0x8ff;
pub(super) const XSS: u32 = 0xda0;

pub(super) const EFER: u32 = 0xc000_0080;
pub(super) const STAR: u32 = 0xc000_0081;
pub(super) const SFMASK: u32 = 0xc000_0084;
pub(super) const FS_BASE: u32 = 0xc000_0100;
pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
pub(super) const TSC_AUX: u32 = 0xc000_0103;
pub(super) const TSC_RATIO: u32 = 0xc000_0104;

pub(super) const AMD_PATCH_LOADER: u32 = 0xc001_0020;
pub(super) const AMD_VM_CR: u32 = 0xc001_0114;
pub(super) const AMD_VM_HSAVE_PA: u32 = 0xc001_0117;
pub(super) const AMD_VIRT_SPEC_CTRL: u32 = 0xc001_011f;
