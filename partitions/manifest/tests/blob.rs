//! How damaged and foreign modules are refused, and on how little stack.

use cloister_manifest::{
    BlobError, FORMAT, Linux, MAGIC, Machine, Manifest, Partition, Problem, decode, decode_into,
    encode, machine_problems, problems, validate,
};

/// As large as a manifest can be.
fn full() -> Manifest {
    let mut manifest = Manifest::new();
    manifest.linux = Some(Linux {
        cmdline: text(1024),
        ..Linux::default()
    });
    while !manifest.partitions.is_full() {
        let partition = Partition {
            args: text(512),
            name: text(31),
            ..Partition::default()
        };
        manifest.partitions.push(partition).unwrap();
    }
    manifest
}

fn text<const N: usize>(length: usize) -> heapless::String<N> {
    "x".repeat(length).as_str().try_into().unwrap()
}

#[test]
fn refusals_say_what_is_wrong() {
    let good = encode(&full());
    let with = |at: usize, byte: u8| {
        let mut blob = good.clone();
        blob[at] = byte;
        decode(&blob).expect_err("accepted")
    };
    assert_eq!(decode(b""), Err(BlobError::NotAManifest));
    assert_eq!(decode(&MAGIC), Err(BlobError::NotAManifest));
    assert_eq!(decode(&[0; 64]), Err(BlobError::NotAManifest));
    assert_eq!(with(0, b'X'), BlobError::NotAManifest);
    assert_eq!(with(8, 9), BlobError::Version(9));
    let cut = good.len() - 1;
    let expected = u64::try_from(good.len()).unwrap();
    assert_eq!(
        decode(&good[..cut]),
        Err(BlobError::Length {
            expected,
            found: cut
        })
    );
    let BlobError::Checksum { expected, found } = with(cut, 0xff) else {
        panic!("checksum")
    };
    assert_ne!(expected, found);
    let messages = [
        (
            BlobError::NotAManifest,
            "make it with `cargo xtask image --system FILE`",
        ),
        (
            BlobError::Version(9),
            "build manifest and hypervisor from the same sources",
        ),
        (
            BlobError::Checksum {
                expected: 1,
                found: 2,
            },
            "the module is damaged",
        ),
    ];
    for (error, remedy) in messages {
        assert!(error.to_string().ends_with(remedy), "{error}");
    }
    assert!(
        BlobError::Version(9)
            .to_string()
            .contains(&format!("format {FORMAT}"))
    );
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let good = encode(&full());
    let mut manifest = Manifest::new();
    assert_eq!(decode_into(&mut manifest, &good), Ok(()));
    assert_eq!(manifest, full());
    assert!(decode_into(&mut manifest, &good[1..]).is_err());
    assert_eq!(manifest, Manifest::new());
}

/// The boot core has 512 KiB of stack and keeps the manifest in a static. This
/// build is not optimised, so it needs more than the hypervisor's.
#[test]
fn reading_and_checking_need_little_stack() {
    let blob = encode(&full());
    let mut manifest = Box::new(Manifest::new());
    let check = move || {
        decode_into(&mut manifest, &blob).unwrap();
        let mut count = 0_usize;
        let mut sink = |problem: Problem| count += usize::from(!problem.key.is_empty());
        problems(&manifest, &mut sink);
        machine_problems(&manifest, &Machine::default(), &mut sink);
        (count, validate(&manifest).is_err())
    };
    let thread = std::thread::Builder::new()
        .stack_size(96 * 1024)
        .spawn(check)
        .unwrap();
    let (count, refused) = thread.join().unwrap();
    assert!(count > 32 && refused);
}
