//! The compiled form: what GRUB hands to the hypervisor.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..12 | [`FORMAT`], little-endian |
//! | 12..16 | length of the body, little-endian |
//! | 16..20 | CRC-32 (ISO-HDLC) of bytes 0..16 and the body, little-endian |
//! | 20.. | the body, to the end of the module |
//!
//! The body is postcard: `[hypervisor]`, `[linux]` or none, the number of
//! partitions and each of them, the number of channels and each of them. They
//! are read one by one, so that no temporary is larger than one of them.

use core::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};
use serde::de::DeserializeOwned;

use crate::model::Manifest;

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"CLSTRMFT";
/// Version of the body's format. Another version is refused.
pub const FORMAT: u32 = 3;

const CHECKED: usize = 16;
const HEADER: usize = 20;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Why a module is no compiled manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobError {
    /// It is shorter than a header, or does not begin with [`MAGIC`].
    NotAManifest,
    /// It is of this format version.
    Version(u32),
    /// The header names a length that the module does not have.
    Length {
        /// Bytes that there should be, header included.
        expected: u64,
        /// Bytes that there are.
        found: usize,
    },
    /// The checksum is not the one that the header names.
    Checksum {
        /// In the header.
        expected: u32,
        /// Of the bytes.
        found: u32,
    },
    /// The checksum is right, but this part of the body cannot be read.
    Malformed(&'static str),
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAManifest => f.write_str(
                "not a compiled manifest; make it with `cargo xtask image --system FILE`",
            ),
            Self::Version(found) => write!(
                f,
                "manifest format {found}, this hypervisor reads format {FORMAT}; \
                 build manifest and hypervisor from the same sources"
            ),
            Self::Length { expected, found } => write!(
                f,
                "{found} bytes long, its header says {expected}; the module was cut or padded"
            ),
            Self::Checksum { expected, found } => write!(
                f,
                "checksum {found:#010x}, its header says {expected:#010x}; the module is damaged"
            ),
            Self::Malformed(part) => write!(
                f,
                "malformed {part}; build manifest and hypervisor from the same sources"
            ),
        }
    }
}

impl core::error::Error for BlobError {}

/// Reads a compiled manifest. The result is as large as [`Manifest`], about
/// 30 KiB: where the stack is small use [`decode_into`].
///
/// # Errors
/// See [`BlobError`]. No input makes it panic.
pub fn decode(blob: &[u8]) -> Result<Manifest, BlobError> {
    let mut manifest = Manifest::new();
    decode_into(&mut manifest, blob)?;
    Ok(manifest)
}

/// Reads a compiled manifest into `manifest`, whose former content is dropped.
/// On an error `manifest` is empty.
///
/// It is not validated: what is read may still contradict itself.
///
/// # Errors
/// See [`BlobError`]. No input makes it panic.
pub fn decode_into(manifest: &mut Manifest, blob: &[u8]) -> Result<(), BlobError> {
    clear(manifest);
    let result = body(blob).and_then(|body| read(manifest, body));
    if result.is_err() {
        clear(manifest);
    }
    result
}

fn clear(manifest: &mut Manifest) {
    manifest.hypervisor = crate::model::Hypervisor::default();
    manifest.linux = None;
    manifest.partitions.clear();
    manifest.channels.clear();
}

fn body(blob: &[u8]) -> Result<&[u8], BlobError> {
    let (header, body) = blob
        .split_first_chunk::<HEADER>()
        .ok_or(BlobError::NotAManifest)?;
    let (checked, crc) = header
        .split_first_chunk::<CHECKED>()
        .ok_or(BlobError::NotAManifest)?;
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        m6,
        m7,
        v0,
        v1,
        v2,
        v3,
        l0,
        l1,
        l2,
        l3,
    ] = *checked;
    if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
        return Err(BlobError::NotAManifest);
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if version != FORMAT {
        return Err(BlobError::Version(version));
    }
    let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
    if u64::try_from(body.len()) != Ok(length) {
        return Err(BlobError::Length {
            expected: length + HEADER as u64,
            found: blob.len(),
        });
    }
    let expected = crc
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte));
    let found = checksum(checked, body);
    if found != expected {
        return Err(BlobError::Checksum { expected, found });
    }
    Ok(body)
}

fn checksum(checked: &[u8; CHECKED], body: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(checked);
    digest.update(body);
    digest.finalize()
}

fn read(manifest: &mut Manifest, mut rest: &[u8]) -> Result<(), BlobError> {
    manifest.hypervisor = take(&mut rest, "[hypervisor]")?;
    manifest.linux = take(&mut rest, "[linux]")?;
    let partitions: usize = take(&mut rest, "number of partitions")?;
    for _ in 0..partitions {
        let too_many = BlobError::Malformed("list of partitions: too many");
        let partition = take(&mut rest, "[[partition]]")?;
        manifest.partitions.push(partition).map_err(|_| too_many)?;
    }
    let channels: usize = take(&mut rest, "number of channels")?;
    for _ in 0..channels {
        let too_many = BlobError::Malformed("list of channels: too many");
        let channel = take(&mut rest, "[[channel]]")?;
        manifest.channels.push(channel).map_err(|_| too_many)?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(BlobError::Malformed("end: bytes are left over"))
    }
}

// Not inlined: each part's temporary is off the stack before the next is read.
#[inline(never)]
fn take<T: DeserializeOwned>(rest: &mut &[u8], part: &'static str) -> Result<T, BlobError> {
    let (value, left) = postcard::take_from_bytes(rest).map_err(|_| BlobError::Malformed(part))?;
    *rest = left;
    Ok(value)
}

/// Compiles a manifest.
///
/// # Panics
/// Never: every part of a [`Manifest`] has a compiled form, far below 4 GiB.
#[cfg(feature = "std")]
#[must_use]
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut body = Vec::new();
    append(&mut body, &manifest.hypervisor);
    append(&mut body, &manifest.linux);
    append(&mut body, &manifest.partitions.len());
    for partition in &manifest.partitions {
        append(&mut body, partition);
    }
    append(&mut body, &manifest.channels.len());
    for channel in &manifest.channels {
        append(&mut body, channel);
    }
    let length = u32::try_from(body.len()).expect("a manifest is of bounded size");
    let mut checked = [0; CHECKED];
    checked[..8].copy_from_slice(&MAGIC);
    checked[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    checked[12..].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&checked, &body);
    [&checked, crc.to_le_bytes().as_slice(), &body].concat()
}

#[cfg(feature = "std")]
fn append<T: serde::Serialize>(body: &mut Vec<u8>, value: &T) {
    let bytes = postcard::to_stdvec(value).expect("every part has a compiled form");
    body.extend(bytes);
}
