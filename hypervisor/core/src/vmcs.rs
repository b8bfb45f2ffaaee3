//! Fields of the VMCS, typed by width and access (Intel SDM vol. 3, "Field
//! Encoding in VMCS").
//!
//! A field knows what may be done with it. Exit information cannot be written;
//! host state and what steers the processor needs another, unsafe, call of the
//! hypervisor than guest state. Width and access are checked against the bits
//! of the encoding when the constant is made.
//!
//! Guest state is written:
//!
//! ```
//! use cloister_core::vmcs::{Field, Guest, W32};
//! const ACTIVITY: Field<W32, Guest> = Field::new(0x4826);
//! assert_eq!(ACTIVITY.write(1).value(), 1);
//! ```
//!
//! The same with a field that only the processor writes does not compile, and
//! no more does host state without `write_critical`:
//!
//! ```compile_fail,E0599
//! use cloister_core::vmcs::{Field, ReadOnly, W32};
//! const EXIT_REASON: Field<W32, ReadOnly> = Field::new(0x4402);
//! assert_eq!(EXIT_REASON.write(1).value(), 1);
//! ```
//!
//! ```compile_fail,E0599
//! use cloister_core::vmcs::{Field, ReadOnly, W32};
//! const EXIT_REASON: Field<W32, ReadOnly> = Field::new(0x4402);
//! assert_eq!(EXIT_REASON.write_critical(1).value(), 1);
//! ```
//!
//! ```compile_fail,E0599
//! use cloister_core::vmcs::{Field, Host, Natural};
//! const HOST_RIP: Field<Natural, Host> = Field::new(0x6c16);
//! assert_eq!(HOST_RIP.write(1).value(), 1);
//! ```
//!
//! Nor does a declaration that its encoding contradicts, or a value that is
//! too wide:
//!
//! ```compile_fail,E0080
//! use cloister_core::vmcs::{Field, Guest, W32};
//! const EXIT_REASON: Field<W32, Guest> = Field::new(0x4402);
//! assert_eq!(EXIT_REASON.write(1).value(), 1);
//! ```
//!
//! ```compile_fail,E0080
//! use cloister_core::vmcs::{Field, Guest, W16};
//! const ACTIVITY: Field<W16, Guest> = Field::new(0x4826);
//! assert_eq!(ACTIVITY.write(1).value(), 1);
//! ```
//!
//! ```compile_fail,E0308
//! use cloister_core::vmcs::{Field, Guest, W32};
//! const ACTIVITY: Field<W32, Guest> = Field::new(0x4826);
//! assert_eq!(ACTIVITY.write(1_u64).value(), 1);
//! ```

use core::marker::PhantomData;

/// Width of a field: how it is encoded, and what Rust type it has.
pub trait Width {
    /// Bits 14:13 of the encoding.
    const CODE: u32;
    /// Value of the field.
    type Value: Copy;
    /// To what VMWRITE takes.
    fn widen(value: Self::Value) -> u64;
    /// From what VMREAD gives; its upper bits are 0.
    fn narrow(value: u64) -> Self::Value;
}

macro_rules! widths {
    ($($(#[$doc:meta])* $width:ident, $code:literal, $value:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $width;

        impl Width for $width {
            const CODE: u32 = $code;
            type Value = $value;
            #[inline(always)]
            fn widen(value: $value) -> u64 {
                value.into()
            }
            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "VMREAD zero-extends")]
            fn narrow(value: u64) -> $value {
                value as $value
            }
        }
    )*};
}

widths! {
    /// 16 bits.
    W16, 0, u16;
    /// 64 bits.
    W64, 1, u64;
    /// 32 bits.
    W32, 2, u32;
    /// As wide as an address.
    Natural, 3, u64;
}

/// What may be done with a field.
pub trait Access {
    /// Bits 11:10 of the encoding.
    const KIND: u32;
}

/// Fields that may be written without endangering the hypervisor.
pub trait Harmless: Access {}
/// Fields on which the hypervisor's integrity depends.
pub trait Critical: Access {}

macro_rules! accesses {
    ($($(#[$doc:meta])* $access:ident, $kind:literal $(, $write:ident)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $access;

        impl Access for $access {
            const KIND: u32 = $kind;
        }
        $(impl $write for $access {})?
    )*};
}

accesses! {
    /// Exit information: written by the processor alone.
    ReadOnly, 1;
    /// Guest state: a wrong value hurts the guest, or fails its entry.
    Guest, 2, Harmless;
    /// A control that concerns the guest alone (what to inject, read shadows).
    Injection, 0, Harmless;
    /// A control that decides what the guest can reach or when it is left.
    Control, 0, Critical;
    /// Host state: what the processor becomes at an exit.
    Host, 3, Critical;
}

/// A field of the VMCS.
#[derive(Debug)]
pub struct Field<W, A> {
    encoding: u32,
    kind: PhantomData<(W, A)>,
}

impl<W, A> Clone for Field<W, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W, A> Copy for Field<W, A> {}

/// A VMWRITE to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    encoding: u32,
    value: u64,
}

impl Write {
    /// Which field.
    #[inline(always)]
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }

    /// Its new value.
    #[inline(always)]
    #[must_use]
    pub const fn value(self) -> u64 {
        self.value
    }
}

impl<W: Width, A: Access> Field<W, A> {
    /// The field with `encoding`.
    ///
    /// # Panics
    /// Where the encoding has another width or access: in a constant, it does
    /// not compile.
    #[must_use]
    pub const fn new(encoding: u32) -> Self {
        assert!(encoding >> 13 & 3 == W::CODE, "width");
        assert!(encoding >> 10 & 3 == A::KIND, "access");
        Self {
            encoding,
            kind: PhantomData,
        }
    }

    /// What VMREAD takes.
    #[inline(always)]
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }

    #[inline(always)]
    fn set(self, value: W::Value) -> Write {
        Write {
            encoding: self.encoding,
            value: W::widen(value),
        }
    }
}

impl<W: Width, A: Harmless> Field<W, A> {
    /// Writing `value`, which cannot hurt the hypervisor.
    #[inline(always)]
    #[must_use]
    pub fn write(self, value: W::Value) -> Write {
        self.set(value)
    }
}

impl<W: Width, A: Critical> Field<W, A> {
    /// Writing `value`, for which somebody has to vouch.
    #[inline(always)]
    #[must_use]
    pub fn write_critical(self, value: W::Value) -> Write {
        self.set(value)
    }
}
