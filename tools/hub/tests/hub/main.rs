//! Downloads from a hub on this machine, with every fault: each ends in the right file or in an error with
//! words.

mod fake_hub;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fake_hub::{COMMIT, FakeFile, FakeHub, Faults};
use moelten_hub::{Found, Hub, HubError, ModelName, Part, Settings, Watch};
use sha1::Digest as _;

/// Bytes of the large file: several pieces, and a part.
const LARGE: usize = (9 << 20) + 12_345;
const CONFIG: &[u8] = b"{\"model_type\":\"mixtral\"}\n";

#[derive(Default)]
struct Watching {
    notes: std::sync::Mutex<Vec<String>>,
    done: AtomicU64,
    /// Stops when this many bytes have arrived; 0 for never.
    stop_at: u64,
}

impl Watch for Watching {
    fn progress(&self, done: u64) {
        self.done.store(done, Ordering::SeqCst);
    }
    fn note(&self, line: &str) {
        self.notes.lock().expect("no panic").push(line.to_owned());
    }
    fn stopped(&self) -> bool {
        self.stop_at > 0 && self.done.load(Ordering::SeqCst) >= self.stop_at
    }
}

fn content(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(next).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn large(path: &str, bytes: Vec<u8>) -> FakeFile {
    let checksum = hex(&sha2::Sha256::digest(&bytes));
    FakeFile { path: path.to_owned(), bytes: Arc::new(bytes), checksum }
}

fn small(path: &str, bytes: &[u8]) -> FakeFile {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    let checksum = hex(&sha1::Sha1::digest(&blob));
    FakeFile { path: path.to_owned(), bytes: Arc::new(bytes.to_vec()), checksum }
}

/// A fake hub, a cache in a folder of its own, and the client between them.
struct Case {
    fake: FakeHub,
    folder: tempfile::TempDir,
    hub: Hub,
}

impl Case {
    fn with(files: Vec<FakeFile>, token: Option<&str>) -> Self {
        let fake = FakeHub::start(files);
        let folder = tempfile::tempdir().expect("a folder");
        let value = |name: &str| match name {
            "HF_ENDPOINT" => Some(fake.endpoint()),
            "HF_TOKEN" => token.map(str::to_owned),
            "HF_HUB_CACHE" => Some(folder.path().join("hub").display().to_string()),
            _ => None,
        };
        let hub = Hub::new(Settings::of(None, value).expect("a cache"));
        Self { fake, folder, hub }
    }

    fn new() -> Self {
        Self::with(vec![small("config.json", CONFIG), large("m-Q4_0.gguf", content(LARGE))], None)
    }

    fn pull(&self, name: &str) -> Result<Found, HubError> {
        self.pull_watched(name, &Watching::default())
    }

    fn pull_watched(&self, name: &str, watch: &Watching) -> Result<Found, HubError> {
        let name = self.name(name);
        let repository = self.hub.look(&name, &|| false)?;
        self.hub.pull(&repository, &repository.choice()?, watch)
    }

    fn name(&self, name: &str) -> ModelName {
        ModelName::parse(name).expect("a sound name").expect("a name")
    }

    /// The error of a pull, in words.
    fn refused(&self, name: &str) -> String {
        let error = self.pull(name).expect_err("a fault");
        assert!(self.hub.find(&self.name("org/model")).is_none(), "an incomplete snapshot is not found");
        error.to_string()
    }

    /// Pulls, and checks the file byte by byte.
    fn pulls(&self) -> Watching {
        let watch = Watching::default();
        let found = self.pull_watched("org/model", &watch).expect("a model");
        assert!(fs::read(&found.path).expect("a file") == content(LARGE), "the right bytes");
        assert_eq!(self.hub.find(&self.name("org/model")), Some(found));
        assert!(self.leftovers().is_empty(), "{:?}", self.leftovers());
        watch
    }

    fn leftovers(&self) -> Vec<String> {
        let blobs = fs::read_dir(self.repo().join("blobs")).into_iter().flatten().flatten();
        let names = blobs.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".incomplete")).collect()
    }

    fn repo(&self) -> std::path::PathBuf {
        self.folder.path().join("hub/models--org--model")
    }
}

#[test]
fn a_model_is_downloaded_and_found_again() {
    let case = Case::new();
    let watch = case.pulls();
    assert_eq!(watch.done.load(Ordering::SeqCst), LARGE as u64);
    assert_eq!(fs::read_to_string(case.repo().join("refs/main")).expect("a revision"), COMMIT);
    let before = case.fake.requests_of("/cdn/");
    case.pulls();
    assert_eq!(case.fake.requests_of("/cdn/"), before, "a complete file is not fetched again");
}

#[test]
fn a_folder_of_safetensors_is_downloaded_with_its_small_files() {
    let weights = content(70_000);
    let files = vec![
        small("config.json", CONFIG),
        large("model.safetensors", weights.clone()),
        small("tokenizer.json", b"{}"),
        small("README.md", b"hello"),
        large("onnx/model.onnx", vec![1]),
    ];
    let case = Case::with(files, None);
    case.fake.faults().page = 2;
    let found = case.pull("org/model").expect("a model");
    assert_eq!(found.path, case.repo().join("snapshots").join(COMMIT).join(""));
    assert_eq!(fs::read(found.path.join("config.json")).expect("a file"), CONFIG);
    assert!(fs::read(found.path.join("model.safetensors")).expect("a file") == weights);
    assert!(!found.path.join("README.md").exists() && !found.path.join("onnx").exists());
    let pages = case.fake.seen().iter().filter(|seen| seen.path.contains("cursor=")).count();
    assert_eq!(pages, 2, "all pages of the listing are read");
}

#[test]
fn f25_cut_connections_go_on_where_they_ended() {
    let case = Case::new();
    case.fake.faults().cut = Some((1_000_000, 9));
    case.pulls();
    let ranges = case.fake.seen().into_iter().filter_map(|seen| seen.range).collect::<Vec<_>>();
    assert!(ranges.iter().any(|range| range.starts_with("bytes=1000000-")), "{ranges:?}");
}

#[test]
fn f25_a_server_that_never_sends_is_an_error_and_the_next_try_resumes() {
    let case = Case::new();
    case.fake.faults().cut = Some((0, 1000));
    let words = case.refused("org/model");
    assert!(words.contains("localhost") && words.contains("run the command again"), "{words}");
    *case.fake.faults() = Default::default();
    case.pulls();
}

#[test]
fn a_stopped_download_keeps_what_has_arrived() {
    let bytes = content(40 << 20);
    let case = Case::with(vec![large("m-Q4_0.gguf", bytes.clone())], None);
    // The ninth piece is fetched only after the first was written.
    let watch = Watching { stop_at: 34 << 20, ..Watching::default() };
    let error = case.pull_watched("org/model", &watch).expect_err("stopped");
    assert!(matches!(error, HubError::Stopped));
    let left = case.leftovers();
    let path = case.repo().join("blobs").join(&left[0]);
    let kept = fs::read(&path).expect("the part");
    assert!(kept.len() >= 4 << 20 && kept == bytes[..kept.len()], "a prefix without gaps");
    let seen = case.fake.seen().len();
    let found = case.pull("org/model").expect("a model");
    assert!(fs::read(found.path).expect("a file") == bytes);
    let first = case.fake.seen().into_iter().skip(seen).filter_map(|seen| seen.range);
    let lowest = first.filter_map(|range| range[6..].split('-').next()?.parse::<usize>().ok()).min();
    assert!(lowest >= Some(4 << 20), "it goes on behind the part, not at {lowest:?}");
}

#[test]
fn a_part_with_other_bytes_is_found_out() {
    let case = Case::new();
    let checksum = large("m", content(LARGE)).checksum;
    fs::create_dir_all(case.repo().join("blobs")).expect("a folder");
    let part = case.repo().join("blobs").join(format!("{checksum}.incomplete"));
    fs::write(&part, vec![0; 1_000_000]).expect("a part");
    let words = case.refused("org/model");
    assert!(words.contains("other bytes") && !part.exists(), "{words}");
    case.pulls();
}

#[test]
fn a_part_that_is_longer_than_the_file_starts_again() {
    let case = Case::new();
    let checksum = large("m", content(LARGE)).checksum;
    fs::create_dir_all(case.repo().join("blobs")).expect("a folder");
    let part = case.repo().join("blobs").join(format!("{checksum}.incomplete"));
    fs::write(&part, vec![0; LARGE + 1]).expect("a part");
    case.pulls();
}

#[test]
fn f25_wrong_bytes_of_the_right_length_are_deleted() {
    let case = Case::new();
    case.fake.faults().wrong_bytes = true;
    let words = case.refused("org/model");
    assert!(words.contains("m-Q4_0.gguf arrived with other bytes"), "{words}");
    assert!(case.leftovers().is_empty());
    case.fake.faults().wrong_bytes = false;
    case.pulls();
}

#[test]
fn a_server_without_ranges_sends_the_whole() {
    let case = Case::new();
    case.fake.faults().no_ranges = true;
    let watch = case.pulls();
    let notes = watch.notes.lock().expect("no panic").join("\n");
    assert!(notes.contains("only as a whole"), "{notes}");
    // Also with a part from before, and a cut on the way.
    let case = Case::new();
    let stop = Watching { stop_at: 5 << 20, ..Watching::default() };
    case.fake.faults().slow = Duration::from_millis(1);
    assert!(case.pull_watched("org/model", &stop).is_err());
    *case.fake.faults() = Default::default();
    case.fake.faults().no_ranges = true;
    case.fake.faults().cut = Some((3_000_000, 2));
    case.pulls();
}

#[test]
fn f25_busy_servers_are_asked_again_and_dead_ones_given_up() {
    for status in [429, 500, 503, 408, 403] {
        let case = Case::new();
        case.fake.faults().status = Some((status, 3));
        case.pulls();
    }
    let case = Case::new();
    case.fake.faults().status = Some((503, 10_000));
    let words = case.refused("org/model");
    assert!(words.contains("status 503") && words.contains("5 tries"), "{words}");
    let case = Case::new();
    case.fake.faults().status = Some((416, 10_000));
    let words = case.refused("org/model");
    assert!(words.contains("has changed") && words.contains("has no bytes"), "{words}");
}

#[test]
fn a_file_that_changes_on_the_hub_is_an_error() {
    let case = Case::new();
    case.fake.faults().etag = Some("c".repeat(64));
    let words = case.refused("org/model");
    assert!(words.contains("has changed on the hub") && words.contains("run the command again"), "{words}");
    let case = Case::new();
    case.fake.faults().longer = 1000;
    let words = case.refused("org/model");
    assert!(words.contains("has changed") && words.contains(&LARGE.to_string()), "{words}");
}

#[test]
fn f25_refusals_say_what_to_do() {
    for (status, code, token, expected) in [
        (403, "GatedRepo", None, "accept its terms at http://127.0.0.1"),
        (401, "GatedRepo", None, "set HF_TOKEN"),
        (403, "", Some("hf_x"), "the one that was sent has no access"),
        (401, "RepoNotFound", None, "has no repository org/model, or it is private"),
        (401, "", Some("hf_x"), "refused the token"),
        (404, "RevisionNotFound", None, "has no revision \"main\""),
        (418, "", None, "status 418"),
    ] {
        let case = Case::with(vec![], token);
        case.fake.faults().refusal = Some((status, code));
        let words = case.refused("org/model");
        assert!(words.contains(expected), "{status} {code}: {words}");
    }
    let case = Case::new();
    let words = case.refused("org/other");
    assert!(words.contains("org/other"), "{words}");
    assert!(case.refused("org/model:Q8_0").contains("no quantisation Q8_0; it has Q4_0"));
    case.fake.faults().redirect_loop = true;
    assert!(case.refused("org/model").contains("redirects"));
}

#[test]
fn f25_the_token_stays_with_the_hub() {
    let files = vec![small("config.json", CONFIG), large("m-Q4_0.gguf", content(LARGE))];
    let case = Case::with(files, Some("hf_secret"));
    case.pulls();
    for seen in case.fake.seen() {
        let here = seen.host.starts_with("127.0.0.1");
        let expected = here.then(|| "Bearer hf_secret".to_owned());
        assert_eq!(seen.token, expected, "{seen:?}");
    }
}

#[test]
fn f25_an_address_that_expires_is_asked_for_again() {
    let bytes = content(40 << 20);
    let case = Case::with(vec![large("m-Q4_0.gguf", bytes.clone())], None);
    case.fake.faults().slow = Duration::from_millis(3);
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| case.pull("org/model"));
        while case.fake.requests_of("/cdn/") == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        case.fake.faults().signed = 7;
        let found = pulling.join().expect("no panic").expect("a model");
        assert!(fs::read(found.path).expect("a file") == bytes);
    });
    assert!(case.fake.requests_of("signed=7") > 0);
}

#[test]
fn connections_are_used_again() {
    let bytes = content(40 << 20);
    let case = Case::with(vec![large("m-Q4_0.gguf", bytes)], None);
    case.pull("org/model").expect("a model");
    assert_eq!(case.fake.requests_of("/cdn/"), 10);
    assert!(case.fake.connections() <= 8, "{} connections for ten pieces", case.fake.connections());
}

#[test]
fn offline_nothing_is_asked() {
    let fake = FakeHub::start(vec![]);
    let value = |name: &str| match name {
        "HF_ENDPOINT" => Some(fake.endpoint()),
        "HF_HUB_OFFLINE" => Some("1".to_owned()),
        "HF_HOME" => Some("/nowhere".to_owned()),
        _ => None,
    };
    let hub = Hub::new(Settings::of(None, value).expect("a cache"));
    let name = ModelName::parse("org/model").expect("sound").expect("a name");
    assert!(matches!(hub.look(&name, &|| false), Err(HubError::Offline { .. })));
    assert!(hub.find(&name).is_none() && fake.seen().is_empty());
}

#[test]
fn two_downloads_of_one_file_fetch_it_once() {
    let case = Case::new();
    case.fake.faults().slow = Duration::from_millis(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| case.pulls())).collect();
        let notes: Vec<String> = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic").notes.into_inner().expect("no panic"))
            .collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("another program downloads"), "{notes:?}");
    });
    assert_eq!(case.fake.requests_of("/cdn/"), LARGE.div_ceil(4 << 20));
}

#[test]
fn a_disk_that_is_too_small_is_known_before() {
    let case = Case::new();
    let name = case.name("org/model");
    let mut repository = case.hub.look(&name, &|| false).expect("a listing");
    repository.files.iter_mut().for_each(|file| file.bytes = 1 << 60);
    let choice = repository.choice().expect("a model");
    let error = case.hub.pull(&repository, &choice, &Watching::default()).expect_err("too large");
    assert!(matches!(error, HubError::Disk { need, .. } if need == 1 << 60), "{error}");
    assert_eq!(case.fake.requests_of("/cdn/"), 0);
}

#[test]
fn parts_of_remote_files_can_be_read() {
    let case = Case::new();
    let name = case.name("org/model");
    let repository = case.hub.look(&name, &|| false).expect("a listing");
    let file = repository.choice().expect("a model").files[0].clone();
    let all = content(LARGE);
    let read = |from, bytes| {
        let parts = case.hub.parts(&repository).expect("a client");
        parts.read(&[Part { file: &file, from, bytes }], &|| false).expect("bytes").remove(0)
    };
    assert!(read(0, 1000) == all[..1000]);
    assert!(read(5000, 70_000) == all[5000..75_000]);
    assert!(read(LARGE as u64 - 10, 1000) == all[LARGE - 10..]);
    assert!(read(LARGE as u64, 10).is_empty());
    case.fake.faults().no_ranges = true;
    assert!(read(5000, 70_000) == all[5000..75_000]);
    case.fake.faults().no_ranges = false;
    case.fake.faults().cut = Some((100, 2));
    assert!(read(5000, 70_000) == all[5000..75_000]);
}

#[test]
fn parts_come_in_order_over_connections_of_their_own() {
    let case = Case::new();
    let name = case.name("org/model");
    let repository = case.hub.look(&name, &|| false).expect("a listing");
    let file = repository.choice().expect("a model").files[0].clone();
    let parts = case.hub.parts(&repository).expect("a client");
    let part = |n: u64| Part { file: &file, from: n * 70_000, bytes: 1000 + n };
    let first = parts.read(&[part(0)], &|| false).expect("bytes");
    // All are under way at once: one after the other they would take ten seconds.
    case.fake.faults().delay = Duration::from_millis(500);
    let (started, wanted): (_, Vec<_>) = (Instant::now(), (0..20).map(part).collect());
    let read = parts.read(&wanted, &|| false).expect("bytes");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(read[0] == first[0]);
    let all = content(LARGE);
    for (read, Part { from, bytes, .. }) in read.iter().zip(&wanted) {
        assert!(*read == all[*from as usize..(from + bytes) as usize], "{from}");
    }
    assert_eq!(case.fake.requests_of("/resolve/"), 1, "the hub is asked once for the address");
    // An address that is valid no more.
    *case.fake.faults() = Faults { signed: 7, ..Faults::default() };
    assert!(parts.read(&[part(3)], &|| false).expect("bytes")[0] == read[3]);
}

#[test]
fn ctrl_c_is_answered_while_the_server_is_silent() {
    let case = Case::new();
    case.fake.faults().stall = Some((4 << 20, 100));
    let watch = Watching { stop_at: 4 << 20, ..Watching::default() };
    let started = Instant::now();
    assert!(matches!(case.pull_watched("org/model", &watch), Err(HubError::Stopped)));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn names_that_leave_the_cache_are_not_files_of_a_model() {
    let mut bad = large("../../../evil.gguf", content(1000));
    let good = large("m.gguf", content(LARGE));
    let case = Case::with(vec![bad.clone(), good], None);
    case.pulls();
    assert!(!Path::new(&case.folder.path().join("evil.gguf")).exists());
    bad.path = "m.gguf".to_owned();
    bad.checksum = "../".repeat(21) + "x";
    let case = Case::with(vec![bad], None);
    assert!(case.refused("org/model").contains("checksum"));
}
