//! A short run of a fuzz target over its corpus: each seed, then mutations of
//! it, the same ones every time.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// One change of an input. Positions are fractions of its length.
#[derive(Clone, Debug)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    /// An extreme number, little-endian, of 1 to 8 bytes.
    Number(prop::sample::Index, u64, usize),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let extreme = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(0x7fff_ffff_ffff_ffff),
        Just(0x8000_0000),
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
    ];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), extreme, 1..=8usize).prop_map(|(at, value, size)| Mutation::Number(at, value, size)),
        at().prop_map(Mutation::Cut),
        (at(), 1..16usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (at(), vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), 1..64usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
    ]
}

impl Mutation {
    fn apply(&self, input: &mut Vec<u8>) {
        if let Self::Insert(at, bytes) = self {
            let at = at.index(input.len() + 1);
            input.splice(at..at, bytes.iter().copied());
        }
        let length = input.len();
        if length == 0 {
            return;
        }
        let end = |at: usize, count: usize| (at + count).min(length);
        match self {
            Self::Set(at, byte) => input[at.index(length)] = *byte,
            Self::Flip(at, bit) => input[at.index(length)] ^= 1 << bit,
            Self::Number(at, value, size) => {
                let bytes = value.to_le_bytes();
                let at = at.index(length);
                for (to, from) in input[at..].iter_mut().zip(&bytes[..*size]) {
                    *to = *from;
                }
            }
            Self::Cut(at) => input.truncate(at.index(length)),
            Self::Remove(at, count) => {
                let at = at.index(length);
                input.drain(at..end(at, *count));
            }
            Self::Insert(..) => {}
            Self::Repeat(at, count) => {
                let at = at.index(length);
                let again = input[at..end(at, *count)].to_vec();
                input.splice(at..at, again);
            }
        }
    }
}

/// The seeds in `folder`, in order of their names.
pub(crate) fn seeds(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no seed", folder.display());
    files
        .iter()
        .map(|file| fs::read(file).expect("a seed"))
        .collect()
}

/// Runs `target` over the seeds in `corpus/NAME` and over `runs` mutations.
pub(crate) fn run(corpus: &Path, name: &str, target: fn(&[u8]), runs: u32) {
    let seeds = seeds(&corpus.join(name));
    seeds.iter().for_each(|seed| target(seed));
    let config = Config {
        cases: runs,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mutated = (0..seeds.len(), vec(mutation(), 1..6)).prop_map(move |(seed, mutations)| {
        let mut input = seeds[seed].clone();
        for mutation in &mutations {
            mutation.apply(&mut input);
        }
        input
    });
    TestRunner::new_with_rng(config, rng)
        .run(&mutated, |input| {
            target(&input);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("target {name}: {error}"));
}
