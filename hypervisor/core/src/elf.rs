//! Partition programs: what of an ELF file goes where.
//!
//! Source: System V ABI, chapters 4 and 5, and its AMD64 supplement. A program
//! is an operator's file: nothing in it is trusted.

use core::fmt;

use ::elf::ElfBytes;
use ::elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD};
use ::elf::endian::LittleEndian;
use ::elf::file::Class;
use ::elf::segment::ProgramHeader;
use cloister_abi::shared::PROGRAM_BASE;

/// The most `PT_LOAD` segments a program may have.
pub const MAX_SEGMENTS: usize = 16;

/// Why a file is no program that Cloister can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The headers are not those of an ELF64 file, or reach past its end.
    NotElf64,
    /// Not for little-endian x86-64; `e_machine`.
    Machine(u16),
    /// Position-independent (`ET_DYN`).
    PositionIndependent,
    /// No executable; `e_type`.
    NotExecutable(u16),
    /// Asks for a dynamic linker (`PT_INTERP`).
    Interpreter,
    /// No `PT_LOAD` segment with bytes in it.
    NothingToLoad,
    /// More than [`MAX_SEGMENTS`] segments.
    TooManySegments,
    /// The bytes of the segment at this address reach past the end of the
    /// file.
    Truncated(u64),
    /// The segment at this address has more bytes in the file than in memory.
    FileSize(u64),
    /// Virtual and physical address of a segment differ; the virtual one.
    Relocated(u64),
    /// A segment lies (partly) outside the memory that programs have.
    OutOfMemory {
        /// First byte.
        start: u64,
        /// Bytes in memory.
        size: u64,
        /// Bytes of memory of the partition.
        memory: u64,
    },
    /// Two segments share memory; the address of the later one.
    Overlap(u64),
    /// The entry point is in no executable segment.
    Entry(u64),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf64 => f.write_str("not a whole ELF64 file"),
            Self::Machine(machine) => write!(
                f,
                "built for machine {machine}; little-endian x86-64 ({EM_X86_64}) is needed"
            ),
            Self::PositionIndependent => f.write_str(
                "position-independent (ET_DYN); link it with relocation-model=static, without -pie",
            ),
            Self::NotExecutable(kind) => {
                write!(f, "e_type is {kind}; an executable (ET_EXEC) is needed")
            }
            Self::Interpreter => {
                f.write_str("asks for a dynamic linker (PT_INTERP); link it statically")
            }
            Self::NothingToLoad => f.write_str("has no segment to load"),
            Self::TooManySegments => {
                write!(f, "has more than {MAX_SEGMENTS} segments to load")
            }
            Self::Truncated(start) => {
                write!(
                    f,
                    "is cut short: the segment at {start:#x} reaches past the end of the file"
                )
            }
            Self::FileSize(start) => {
                write!(
                    f,
                    "the segment at {start:#x} has more bytes in the file than in memory"
                )
            }
            Self::Relocated(start) => write!(
                f,
                "the segment at {start:#x} has another physical address; both must be the same"
            ),
            Self::OutOfMemory {
                start,
                size,
                memory,
            } => write!(
                f,
                "the segment at {start:#x} ({size:#x} bytes) is outside the partition's program \
                 memory {PROGRAM_BASE:#x}..{memory:#x}"
            ),
            Self::Overlap(start) => {
                write!(f, "the segment at {start:#x} overlaps another")
            }
            Self::Entry(entry) => {
                write!(f, "the entry point {entry:#x} is in no executable segment")
            }
        }
    }
}

impl core::error::Error for ElfError {}

/// A piece of a program: `file` goes to guest-physical `gpa`, and zeros follow
/// up to `memory_size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Guest-physical address, which is the virtual one as well.
    pub gpa: u64,
    /// Bytes to copy; at most `memory_size`.
    pub file: &'a [u8],
    /// Bytes that the segment takes in memory, at least 1.
    pub memory_size: u64,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

impl<'a> Segment<'a> {
    /// Reads and checks a `PT_LOAD` header that is not empty.
    fn parse(file: &'a [u8], header: &ProgramHeader, memory: u64) -> Result<Self, ElfError> {
        let gpa = header.p_paddr;
        if header.p_vaddr != gpa {
            return Err(ElfError::Relocated(header.p_vaddr));
        }
        if header.p_filesz > header.p_memsz {
            return Err(ElfError::FileSize(gpa));
        }
        let end = gpa.checked_add(header.p_memsz);
        if gpa < PROGRAM_BASE || end.is_none_or(|end| end > memory) {
            return Err(ElfError::OutOfMemory {
                start: gpa,
                size: header.p_memsz,
                memory,
            });
        }
        let bytes = || {
            let start = usize::try_from(header.p_offset).ok()?;
            let size = usize::try_from(header.p_filesz).ok()?;
            file.get(start..start.checked_add(size)?)
        };
        Ok(Self {
            gpa,
            file: bytes().ok_or(ElfError::Truncated(gpa))?,
            memory_size: header.p_memsz,
            read: header.p_flags & PF_R != 0,
            write: header.p_flags & PF_W != 0,
            execute: header.p_flags & PF_X != 0,
        })
    }

    /// One past the last byte in memory. `parse` has seen that it exists.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.gpa.saturating_add(self.memory_size)
    }
}

/// A program that can be loaded.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    entry: u64,
    segments: heapless::Vec<Segment<'a>, MAX_SEGMENTS>,
}

impl<'a> Program<'a> {
    /// Reads the ELF file `file` for a partition with `memory` bytes of RAM.
    ///
    /// # Errors
    /// See [`ElfError`]. A program that is returned has all its segments in
    /// `PROGRAM_BASE..memory`, none overlapping another.
    pub fn parse(file: &'a [u8], memory: u64) -> Result<Self, ElfError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ElfError::NotElf64)?;
        if elf.ehdr.class != Class::ELF64 {
            return Err(ElfError::NotElf64);
        }
        if elf.ehdr.e_machine != EM_X86_64 {
            return Err(ElfError::Machine(elf.ehdr.e_machine));
        }
        match elf.ehdr.e_type {
            ET_EXEC => {}
            ET_DYN => return Err(ElfError::PositionIndependent),
            other => return Err(ElfError::NotExecutable(other)),
        }
        let mut segments = heapless::Vec::new();
        for header in elf.segments().ok_or(ElfError::NothingToLoad)?.iter() {
            match header.p_type {
                PT_INTERP => return Err(ElfError::Interpreter),
                PT_LOAD if header.p_memsz != 0 || header.p_filesz != 0 => {
                    let segment = Segment::parse(file, &header, memory)?;
                    let clashes = |other: &Segment<'_>| {
                        segment.gpa < other.end() && other.gpa < segment.end()
                    };
                    if segments.iter().any(clashes) {
                        return Err(ElfError::Overlap(segment.gpa));
                    }
                    segments
                        .push(segment)
                        .map_err(|_| ElfError::TooManySegments)?;
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(ElfError::NothingToLoad);
        }
        let entry = elf.ehdr.e_entry;
        let holds_entry = |segment: &Segment<'_>| {
            segment.execute && (segment.gpa..segment.end()).contains(&entry)
        };
        if !segments.iter().any(holds_entry) {
            return Err(ElfError::Entry(entry));
        }
        Ok(Self { entry, segments })
    }

    /// Where every core of the partition starts, guest-physical.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// What to load, in file order.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment<'a>> + '_ {
        self.segments.iter().copied()
    }

    /// One past the highest byte that a segment takes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments
            .iter()
            .map(Segment::end)
            .max()
            .unwrap_or(PROGRAM_BASE)
    }
}

#[cfg(test)]
mod tests;
