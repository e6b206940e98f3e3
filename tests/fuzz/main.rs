//! The fuzz targets as ordinary tests: each over its corpus, and over changes of it whose seeds are always the same. What
//! libfuzzer finds (`scripts/fuzz`) is added to the corpus, and so is played here for ever.

#![allow(missing_docs, reason = "a test")]

mod checks;
mod mutate;

use std::path::{Path, PathBuf};

use mutate::Mutator;

/// What a target reads in one go, at most: a message and some.
const INPUT_LEN_MAX: usize = 70_000;
const CORPUS_COUNT_MAX: usize = 80;

/// Plays a target over its corpus and so many changes of it. `HAWSER_FUZZ_ROUNDS` says how many instead.
fn play(target: &str, rounds: u64, check: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty() && corpus.len() <= CORPUS_COUNT_MAX, "{target}: {} seeds", corpus.len());
    for (name, bytes) in &corpus {
        one(target, name, bytes, check);
    }
    let all: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let rounds = std::env::var("HAWSER_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(rounds);
    for seed in 0..rounds {
        let mut mutator = Mutator::new(seed, words(target));
        one(target, &format!("seed-{seed}"), &mutator.changed(&all), check);
    }
    // A step for each pair of bytes would take minutes.
    for (seed, bytes) in (0..).zip(&all) {
        let grown = Mutator::new(seed, Vec::new()).grown(bytes, INPUT_LEN_MAX);
        one(target, &format!("grown-{seed}"), &grown, check);
    }
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// What the corpus of a target holds, by name, in order.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = top().join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a folder of ours").path();
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("a file of ours"))
        })
        .collect();
    all.sort();
    all
}

/// The words of a target's dictionary: its own, or that of SIP.
fn words(target: &str) -> Vec<Vec<u8>> {
    let own = std::fs::read_to_string(top().join("dict").join(target));
    let text = own.or_else(|_| std::fs::read_to_string(top().join("dict/sip"))).expect("a dictionary");
    text.lines().filter_map(mutate::word).collect()
}

/// What fails is written down, so that it can be looked at, and kept.
fn one(target: &str, name: &str, bytes: &[u8], check: fn(&[u8])) {
    let failed = std::panic::catch_unwind(|| check(bytes));
    if let Err(cause) = failed {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{name}"));
        std::fs::write(&path, bytes).expect("it can be written");
        eprintln!("{target} fails for {}: if it is not in tests/fuzz/corpus/{target}, put it there", path.display());
        std::panic::resume_unwind(cause);
    }
}

/// A test for each target, with so many changes of its corpus.
macro_rules! targets {
    ($($target:ident $rounds:literal,)*) => {
        $(
            #[test]
            fn $target() {
                play(stringify!($target), $rounds, checks::$target::check);
            }
        )*

        #[test]
        fn every_target_is_one_of_cargo_fuzz() {
            let manifest = std::fs::read_to_string(top().join("Cargo.toml")).expect("a manifest");
            let mut files: Vec<_> = std::fs::read_dir(top().join("fuzz_targets")).expect("a folder").map(|entry| {
                entry.expect("a file").file_name().to_string_lossy().into_owned()
            }).collect();
            files.sort();
            let mut targets = vec![$(concat!(stringify!($target), ".rs")),*];
            targets.sort_unstable();
            assert_eq!(files, targets);
            for target in targets {
                assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}\"")), "{target}");
            }
        }
    };
}

targets! {
    client_hello 2_000,
    dns 2_000,
    engine 400,
    framer 1_000,
    http 1_000,
    message 2_000,
    name_addr 2_000,
    proxy_header 5_000,
    register 1_000,
    route_set 2_000,
    settings 500,
    token 2_000,
    uri 2_000,
}
