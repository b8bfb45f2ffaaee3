//! The archive format of an initramfs: cpio, "newc" variant (Linux
//! Documentation/driver-api/early-userspace/buffer-format.rst). Several
//! archives one after another make one initramfs.

/// File type bits of `mode`, as in stat(2).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes one archive. All files belong to root, with time stamp 0, so that
/// the same content gives the same bytes.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the directory `path` (no leading slash) with permissions 0755.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | (mode & 0o7777), (0, 0), content);
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device with numbers `major` and `minor`.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER | (mode & 0o7777), (major, minor), &[]);
    }

    /// The archive's bytes: a multiple of 4, so that another may follow.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        // The index number only has to differ between files.
        let number = self.entries;
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let header: [u32; 13] = [
            number, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn entry_layout() {
        let mut archive = Archive::new();
        archive.file("a", 0o644, b"xyz");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        // c_mode is the second field, c_filesize the seventh, c_namesize the
        // twelfth; the name follows the 110 bytes of the header.
        assert_eq!(&bytes[14..22], b"000081a4");
        assert_eq!(&bytes[54..62], b"00000003");
        assert_eq!(&bytes[94..102], b"00000002");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..116], b"xyz\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert!(bytes.len().is_multiple_of(4));
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    /// The system's own cpio, where there is one, must read what we write.
    #[test]
    fn cpio_reads_it() {
        use std::process::{Command, Stdio};
        let mut archive = Archive::new();
        archive.directory("d");
        archive.file("d/f", 0o755, b"hello");
        archive.symlink("l", "d/f");
        let child = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: no cpio here");
            return;
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("drwxr-xr-x"), "{text}");
        assert!(text.contains("-rwxr-xr-x"), "{text}");
        assert!(text.contains("l -> d/f"), "{text}");
    }
}
