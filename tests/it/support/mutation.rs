//! Fuzzing without a fuzzer: inputs from a kept corpus, changed at random by seed.
//!
//! A run is bounded and always the same: so many rounds from seed 0, fewer on a machine that is
//! busy. `EVENKEEL_FUZZ_SECONDS=60` runs for that long instead, from a seed of its own, and
//! `EVENKEEL_FUZZ_SEED=n` repeats one round.
//!
//! What fails is written to `target/fuzz`: name it after what it is and keep it in `tests/corpus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::panicking;
use std::time::{Duration, Instant, SystemTime};

/// For a run of which nobody said how long it may take.
const PLAIN: Duration = Duration::from_secs(6);

/// The rounds of one target.
pub struct Rounds {
    name: &'static str,
    seed: u64,
    left: u64,
    until: Instant,
}

/// One round; says how to repeat it when the test fails in it.
pub struct Round {
    name: &'static str,
    seed: u64,
    pub random: fastrand::Rng,
    input: Vec<u8>,
}

/// `count` rounds, unless the environment says otherwise.
pub fn rounds(name: &'static str, count: u64) -> Rounds {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seconds = number("EVENKEEL_FUZZ_SECONDS");
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let (seed, left) = match (number("EVENKEEL_FUZZ_SEED"), seconds) {
        (Some(seed), _) => (seed, 1),
        (None, Some(_)) => (
            clock.map_or(0, |time| time.as_nanos() as u64 >> 8),
            u64::MAX,
        ),
        (None, None) => (0, count),
    };
    let until = Instant::now() + seconds.map_or(PLAIN, Duration::from_secs);
    Rounds {
        name,
        seed,
        left,
        until,
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        if self.left == 0 || Instant::now() > self.until {
            return None;
        }
        let seed = self.seed;
        (self.seed, self.left) = (seed.wrapping_add(1), self.left - 1);
        Some(Round {
            name: self.name,
            seed,
            random: fastrand::Rng::with_seed(seed),
            input: Vec::new(),
        })
    }
}

impl Round {
    /// Up to `most` entries of the corpus, one behind the other and more or less changed.
    pub fn input(&mut self, corpus: &Corpus, most: usize, words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.random.usize(1..=most) {
            bytes.extend_from_slice(corpus.pick(&mut self.random));
        }
        let changes = [0, 1, 1, 1, 2, 3, 5][self.random.usize(..7)];
        for _ in 0..changes {
            let other = corpus.pick(&mut self.random);
            mutate(&mut bytes, other, words, &mut self.random);
        }
        bytes.truncate(64 * 1024);
        self.input.clone_from(&bytes);
        bytes
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if !panicking() {
            return;
        }
        let (name, seed) = (self.name, self.seed);
        let path = root().join(format!("target/fuzz/{name}-{seed}"));
        let written = fs::create_dir_all(root().join("target/fuzz"))
            .and_then(|()| fs::write(&path, &self.input));
        eprintln!("fuzzing {name} failed: repeat it with EVENKEEL_FUZZ_SEED={seed}");
        eprintln!("its input: {}", self.input.escape_ascii());
        if written.is_ok() {
            eprintln!("is in {}", path.display());
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the rounds start from: what is well-formed, and what is not.
pub struct Corpus([Vec<(PathBuf, Vec<u8>)>; 2]);

impl Corpus {
    /// Every file of `tests/corpus/kind` and `tests/corpus/kind-bad`.
    pub fn of(kind: &str) -> Self {
        let entries = |directory: String| {
            let files = fs::read_dir(root().join("tests/corpus").join(directory));
            let mut entries: Vec<_> = files
                .expect("the corpus is there")
                .map(|file| file.expect("can be listed").path())
                .map(|path| (path.clone(), fs::read(path).expect("can be read")))
                .collect();
            // The same order everywhere, so that a seed means the same.
            entries.sort();
            entries
        };
        Corpus([entries(kind.to_owned()), entries(format!("{kind}-bad"))])
    }

    fn pick(&self, random: &mut fastrand::Rng) -> &[u8] {
        let kind = &self.0[usize::from(random.u8(..4) == 0)];
        &kind[random.usize(..kind.len())].1
    }
}

/// One change, somewhere in `bytes`.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut fastrand::Rng) {
    // Line ends and separators are where messages are misread.
    let turn = |bytes: &[u8], random: &mut fastrand::Rng| {
        let marks: Vec<usize> = (0..bytes.len())
            .filter(|&at| b"\r\n:; ,".contains(&bytes[at]))
            .collect();
        if marks.is_empty() || random.bool() {
            random.usize(..=bytes.len())
        } else {
            marks[random.usize(..marks.len())] + random.usize(..2)
        }
    };
    let from = turn(bytes, random);
    let to = (from + [1, 1, 2, 4, 40][random.usize(..5)]).min(bytes.len());
    match random.u8(..10) {
        0 => drop(bytes.drain(from..to)),
        1 => drop(bytes.splice(from..from, [random.u8(..)])),
        2 => drop(bytes.splice(from..to, [random.u8(..)])),
        3 | 4 => drop(bytes.splice(
            from..from,
            words[random.usize(..words.len())].iter().copied(),
        )),
        5 => drop(bytes.splice(from..to, words[random.usize(..words.len())].iter().copied())),
        6 => {
            let piece = bytes[from..to].to_vec();
            let place = turn(bytes, random);
            bytes.splice(place..place, piece);
        }
        7 => {
            let start = turn(other, random).min(other.len());
            bytes.splice(from.., other[start..].iter().copied());
        }
        8 => bytes.truncate(from),
        _ => bytes.extend_from_slice(other),
    }
}

/// What heads and chunks are made of, and what they are broken with.
#[rustfmt::skip]
pub const WORDS: &[&[u8]] = &[
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"\0", b" ", b"\t", b"\x0b", b"\x7f",
    b"\x80", b"\xff", b":", b",", b";", b"=", b"\"", b"0", b"00", b"1", b"5", b"+", b"-", b"_",
    b"GET ", b"HEAD ", b"POST ", b"OPTIONS ", b"CONNECT ", b"/", b"*", b"http://h", b"@", b"#",
    b"%0d%0a", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/0.9\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 304 \r\n", b"Host: h\r\n", b"Host: i\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: 05\r\n",
    b"Content-Length:\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n",
    b"Transfer-Encoding : chunked\r\n", b"\r\nTransfer-Encoding: chunked", b" chunked",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Content-Length, X\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n",
    b"X_Y: z\r\n", b"X: a\r\n b\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"a\r\n0123456789\r\n",
    b"ffffffffffffffff\r\n", b"5;a=b\r\n", b"5;a\nb\r\n", b"0\r\nX: y\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
];
