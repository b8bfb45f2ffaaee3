//! Life-cycle states, as they are named in reports.

/// State of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[repr(u8)]
pub enum PartitionState {
    /// Its image is in memory; it has not been started.
    Loaded,
    /// At least one core runs it.
    Running,
    /// Stopped by the operator.
    Stopped,
    /// All its cores called `finish`.
    Finished,
    /// Ended by a breach of STRICT.
    Violated,
    /// Ended by its own fault: triple fault, foreign memory.
    Failed,
}

/// State of the Linux guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[repr(u8)]
pub enum LinuxState {
    /// Loaded, not started.
    Loaded,
    /// Running.
    Running,
    /// It asked the machine to power off (ACPI S5).
    Off,
    /// It asked for a reset of the machine.
    Reset,
    /// It triple-faulted or panicked.
    Failed,
}

macro_rules! codes {
    ($type:ident: $($variant:ident = $name:literal),*) => {
        impl $type {
            /// Name in reports, kebab-case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// The state stored as `code`.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                $(if code == Self::$variant as u8 { return Some(Self::$variant); })*
                None
            }
        }
    };
}
codes!(PartitionState: Loaded = "loaded", Running = "running", Stopped = "stopped",
    Finished = "finished", Violated = "violated", Failed = "failed");
codes!(LinuxState: Loaded = "loaded", Running = "running", Off = "off", Reset = "reset",
    Failed = "failed");
