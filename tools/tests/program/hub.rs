//! Models from a hub, the fake one on this machine: names in every command, downloads that are killed, the
//! list and the deletion of downloads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{BRIEF, Outcome, builtin, finish, moelten, run};
use crate::fake_hub::{COMMIT, FakeFile, FakeHub};

/// A hub with the built-in model in two sizes, and an empty cache.
struct Case {
    fake: FakeHub,
    home: tempfile::TempDir,
    model: Vec<u8>,
}

/// As `sha256sum` prints it.
fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().expect("coreutils");
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

impl Case {
    fn new() -> Self {
        let model = fs::read(builtin()).unwrap();
        let file = |path: &str| FakeFile {
            path: path.to_owned(),
            bytes: Arc::new(model.clone()),
            checksum: sha256(&builtin()),
        };
        let mut other = model.clone();
        other.truncate(model.len() / 2);
        let home = tempfile::tempdir().unwrap();
        let half = home.path().join("half");
        fs::write(&half, &other).unwrap();
        let half =
            FakeFile { path: "tales-Q2_K.gguf".into(), bytes: Arc::new(other), checksum: sha256(&half) };
        let fake = FakeHub::start(vec![half, file("tales-Q4_K_M.gguf")]);
        Self { fake, home, model }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = moelten();
        command.args(args).current_dir(self.home.path());
        for name in ["HF_HUB_CACHE", "XDG_CACHE_HOME", "LLAMA_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HOME", self.home.path()).env("HF_HOME", self.home.path().join("hf"));
        command.env("HF_ENDPOINT", self.fake.endpoint());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        run(&mut self.command(args), b"")
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hf/hub/models--org--model")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }
}

#[test]
fn a_name_is_downloaded_once_and_then_found() {
    let case = Case::new();
    let asked = [&["run", "org/model", "Once upon a time"], &BRIEF[..]].concat();
    let first = case.run(&asked).fine();
    for words in
        ["org/model is not on this machine; asking 127.0.0.1", "Q4_K_M is used", "downloading 1 file"]
    {
        assert!(first.err.contains(words), "{words}: {}", first.err);
    }
    assert!(fs::read(case.snapshot().join("tales-Q4_K_M.gguf")).unwrap() == case.model);
    let requests = case.fake.seen().len();
    let again = case.run(&asked).fine();
    assert_eq!(
        (again.text(), case.fake.seen().len()),
        (first.text(), requests),
        "the network is not used again"
    );
    // By its path, by the name that `models` prints, and offline.
    let path = case.snapshot().join("tales-Q4_K_M.gguf");
    let by_path =
        case.run(&[&["run", path.to_str().unwrap(), "Once upon a time"], &BRIEF[..]].concat()).fine();
    assert_eq!(by_path.text(), first.text());
    let mut offline = case.command(&asked);
    assert_eq!(run(offline.env("HF_HUB_OFFLINE", "1"), b"").fine().text(), first.text());
    let name = case.run(&[&["run", "tales-Q4_K_M.gguf", "Once upon a time"], &BRIEF[..]].concat()).fine();
    assert_eq!(name.text(), first.text());
}

#[test]
fn pull_prints_the_path_and_shows_what_there_is() {
    let case = Case::new();
    let shown = case.run(&["pull", "org/model", "--dry-run"]).fine();
    assert!(shown.text().contains("* Q4_K_M") && shown.text().contains("  Q2_K"), "{shown:?}");
    assert!(shown.text().contains(COMMIT) && !case.repo().exists(), "{shown:?}");
    let pulled = case.run(&["pull", "hf:org/model:q4_k_m"]).fine();
    assert_eq!(Path::new(pulled.text().trim_end()), case.snapshot().join("tales-Q4_K_M.gguf"));
    let again = case.run(&["pull", "org/model"]).fine();
    assert!(again.err.contains("complete and up to date"), "{again:?}");
    assert_eq!(again.text(), pulled.text());
    case.run(&["pull", "org/model:Q8_0"]).refused(2, "E-HUB-01");
    case.run(&["pull", "org/none"]).refused(6, "E-HUB-03");
    case.run(&["pull", "model.gguf"]).refused(2, "E-HUB-01");
    let mut offline = case.command(&["pull", "org/other"]);
    let refused = run(offline.env("HF_HUB_OFFLINE", "1"), b"").refused(6, "E-HUB-03");
    assert!(refused.err.contains("HF_HUB_OFFLINE is set"), "{refused:?}");
}

#[test]
fn a_damaged_download_is_an_error_with_its_own_exit_code() {
    let case = Case::new();
    case.fake.faults().wrong_bytes = true;
    let outcome = case.run(&["pull", "org/model"]).refused(3, "E-HUB-05");
    assert!(outcome.err.contains("tales-Q4_K_M.gguf arrived with other bytes"), "{outcome:?}");
    case.fake.faults().wrong_bytes = false;
    case.fake.faults().refusal = Some((403, "GatedRepo"));
    let outcome = case.run(&["run", "org/model", "hello"]).refused(6, "E-HUB-03");
    assert!(outcome.err.contains("accept its terms"), "{outcome:?}");
}

#[test]
fn fit_judges_a_model_by_its_headers() {
    let case = Case::new();
    let outcome = case.run(&["fit", "org/model", "--ctx", "64"]).fine();
    for words in
        ["org/model:Q4_K_M: RAM, all of it fits", "all quantisations there", "Q2_K", "(the one above)"]
    {
        assert!(outcome.text().contains(words), "{words}: {outcome:?}");
    }
    assert!(outcome.err.contains("of headers were read"), "{outcome:?}");
    assert!(!case.repo().exists(), "nothing was downloaded");
    let json = case.run(&["fit", "org/model", "--ctx", "64", "--json"]).fine();
    let json: serde_json::Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(json["verdict"], "ram");
    // The same plan as of the file itself.
    let local = case.run(&["fit", builtin().to_str().unwrap(), "--ctx", "64", "--json"]).fine();
    let local: serde_json::Value = serde_json::from_str(local.text()).unwrap();
    for key in ["memory", "token", "context"] {
        let (remote, local) = (&json[key], &local[key]);
        let same = |what: &str| assert_eq!(remote[what], local[what], "{key} {what}");
        match key {
            "memory" => {
                ["dense_bytes", "kv_bytes", "buffer_bytes", "expert_bytes"].into_iter().for_each(same)
            }
            _ => assert_eq!(remote, local, "{key}"),
        }
    }
}

#[test]
fn downloads_are_listed_shown_and_deleted() {
    let case = Case::new();
    case.run(&["pull", "org/model"]).fine();
    let listed = case.run(&["models", "--json", "--ctx", "64"]).fine();
    let listed: serde_json::Value = serde_json::from_str(listed.text()).unwrap();
    let entry = listed.as_array().unwrap().iter().find(|entry| entry["name"] == "tales-Q4_K_M.gguf").unwrap();
    assert_eq!((&entry["verdict"], &entry["bytes"]), (&"ram".into(), &case.model.len().into()));
    let shown = case.run(&["models", "show", "org/model", "--ctx", "64"]).fine();
    assert!(shown.text().contains("org/model in the Hugging Face cache"), "{shown:?}");
    assert!(shown.text().contains("fits into memory"), "{shown:?}");
    // A folder and those below it.
    let nested = case.home.path().join("mine/deep/er");
    fs::create_dir_all(&nested).unwrap();
    fs::copy(builtin(), nested.join("own.gguf")).unwrap();
    let mine = case.home.path().join("mine");
    let inside = case.run(&["models", "--dir", mine.to_str().unwrap(), "--json", "--ctx", "64"]).fine();
    assert!(inside.text().contains("own.gguf") && !inside.text().contains("tales"), "{inside:?}");
    let shown = case.run(&["models", "show", "tiny-tales", "--ctx", "64"]).fine();
    assert!(shown.text().contains("(built in)") && !shown.text().contains("delete"), "{shown:?}");
    let own = nested.join("own.gguf");
    let shown = case.run(&["models", "show", own.to_str().unwrap(), "--ctx", "64"]).fine();
    assert!(shown.text().contains("a path") && !shown.text().contains("delete"), "{shown:?}");
    case.run(&["models", "rm", "own.gguf", "--yes"]).refused(2, "E-ARG-01");
    assert!(own.exists());
    case.run(&["models", "rm", "org/model"]).refused(2, "E-ARG-01");
    case.run(&["models", "rm", "org/model:Q4_K_M", "--yes"]).refused(2, "E-ARG-01");
    case.run(&["models", "rm", "/etc/passwd", "--yes"]).refused(2, "E-ARG-01");
    assert!(case.repo().exists());
    let removed = case.run(&["models", "rm", "org/model", "--yes"]).fine();
    assert!(removed.err.contains("deleted org/model: 1 files"), "{removed:?}");
    assert!(!case.repo().exists());
    let only = case.run(&["models", "--dir", "/nowhere", "--json"]).fine();
    assert_eq!(only.text().trim(), "[]");
    let mut named = case.command(&["models", "--json", "--ctx", "64"]);
    let folder = builtin();
    let named = run(named.env("MOELTEN_MODELS", folder.parent().unwrap()), b"").fine();
    assert!(named.text().contains("MOELTEN_MODELS"), "{named:?}");
}

/// Killed at 200 points, a download leaves nothing that is opened, and the next one ends with the right file.
/// Every so often it starts from nothing, so that all its parts are met.
#[test]
fn a_download_survives_being_killed() {
    const POINTS: u64 = 200;
    let case = Case::new();
    case.fake.faults().slow = Duration::from_millis(1);
    // How long a download takes on this machine now, and that many points of it.
    let whole = case.run(&["pull", "org/model"]).fine().took.min(Duration::from_millis(200));
    fs::remove_dir_all(case.home.path().join("hf")).unwrap();
    let (mut killed, mut resumed) = (0, 0);
    for round in 0..POINTS {
        let mut command = case.command(&["pull", "org/model"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // In an order that mixes early and late ones.
        std::thread::sleep(whole * u32::try_from(round * 67 % POINTS).unwrap() / POINTS as u32);
        killed += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let file = case.snapshot().join("tales-Q4_K_M.gguf");
        let blobs = fs::read_dir(case.repo().join("blobs")).into_iter().flatten().flatten();
        resumed +=
            u64::from(blobs.into_iter().any(|blob| blob.metadata().is_ok_and(|found| found.len() > 0)));
        assert!(!file.exists() || fs::read(&file).unwrap() == case.model, "round {round}");
        let hf = case.home.path().join("hf");
        if (file.exists() || round % 8 == 7) && hf.exists() {
            fs::remove_dir_all(hf).unwrap();
        }
    }
    assert!(killed > POINTS / 2, "{killed} of {POINTS} were killed while they ran");
    assert!(resumed > 4, "{resumed} of {POINTS} left a part to go on with");
    println!("{killed} of {POINTS} killed while they ran, {resumed} with a part to go on with, of {whole:?}");
    case.fake.faults().slow = Duration::ZERO;
    case.run(&["pull", "org/model"]).fine();
    assert!(fs::read(case.snapshot().join("tales-Q4_K_M.gguf")).unwrap() == case.model);
    let blobs = fs::read_dir(case.repo().join("blobs")).unwrap().count();
    assert_eq!(blobs, 1, "no incomplete file is left");
}

#[test]
fn waits_for_a_slow_hub_are_visible() {
    let case = Case::new();
    case.fake.faults().delay = Duration::from_millis(1500);
    let outcome = case.run(&["pull", "org/model", "--dry-run"]).fine();
    assert!(outcome.err.contains("waiting for the hub: 1 s"), "{outcome:?}");
    let quiet = case.run(&["pull", "org/model", "--dry-run", "--quiet"]).fine();
    assert_eq!((quiet.text(), quiet.err.as_str()), (outcome.text(), ""));
}

/// `curl` of the same file from the same server is the measure. `cargo test --release -p moelten-tools --test
/// program gigabyte -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for a machine at rest"]
fn a_gigabyte_comes_nearly_as_fast_as_with_curl() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    let bytes: Vec<u8> = (0..1u32 << 28).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(&path, &bytes).unwrap();
    let checksum = sha256(&path);
    fs::remove_file(&path).unwrap();
    let size = bytes.len() as f64;
    let fake =
        FakeHub::start(vec![FakeFile { path: "m-Q8_0.gguf".into(), bytes: Arc::new(bytes), checksum }]);
    let url = fake.endpoint().replace("127.0.0.1", "localhost") + "/cdn/m-Q8_0.gguf?signed=0";
    let (mut curls, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let started = Instant::now();
        let status = Command::new("curl").args(["-s", "-o"]).arg(&path).arg(&url).status();
        assert!(status.is_ok_and(|status| status.success()), "curl is needed");
        curls.push(size / started.elapsed().as_secs_f64());
        fs::remove_file(&path).unwrap();
        let mut command = moelten();
        command.args(["pull", "org/model"]).env_remove("HF_HUB_OFFLINE");
        command.env("HF_ENDPOINT", fake.endpoint()).env("HF_HOME", folder.path().join("hf"));
        let outcome = run(&mut command, b"").fine();
        ours.push(size / outcome.took.as_secs_f64());
        fs::remove_dir_all(folder.path().join("hf")).unwrap();
    }
    curls.sort_by(f64::total_cmp);
    ours.sort_by(f64::total_cmp);
    println!("curl {:.0} MB/s, pull {:.0} MB/s (medians of 5)", curls[2] / 1e6, ours[2] / 1e6);
    assert!(ours[2] >= 0.7 * curls[2], "{ours:?} {curls:?}");
}

/// At most 64 MiB, however large the file is.
#[cfg(target_os = "linux")]
#[test]
fn a_download_stays_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..48u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let path = folder.path().join("big");
    fs::write(&path, &bytes).unwrap();
    let checksum = sha256(&path);
    let fake =
        FakeHub::start(vec![FakeFile { path: "m-Q8_0.gguf".into(), bytes: Arc::new(bytes), checksum }]);
    let mut command = moelten();
    command.args(["pull", "org/model"]).env_remove("HF_HUB_OFFLINE");
    command.env("HF_ENDPOINT", fake.endpoint()).env("HF_HOME", folder.path().join("hf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
        };
        // What the process owns; pages of the program's file are the system's.
        peak = peak.max(kib("RssAnon:") + kib("RssShmem:"));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    println!("at most {} MiB", peak >> 10);
    assert!(peak > 0 && peak < 64 << 10, "{} MiB", peak >> 10);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_has_arrived() {
    let case = Case::new();
    case.fake.faults().stall = Some((100_000, 1000));
    let mut command = case.command(&["pull", "org/model"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while case.fake.requests_of("/cdn/") == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "no download began");
        std::thread::sleep(Duration::from_millis(10));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let outcome = finish(child, started);
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(outcome.err.contains("what has arrived is kept"), "{outcome:?}");
}

#[test]
fn a_model_alone_opens_a_chat() {
    let case = Case::new();
    let model = builtin();
    let outcome = run(&mut case.command(&[model.to_str().unwrap()]), b"Hello\n").fine();
    assert!(!outcome.out.is_empty(), "{outcome:?}");
    let completions = case.run(&["completions", "bash"]).fine();
    assert!(completions.text().contains("pull") && completions.text().contains("--dry-run"));
    let page = case.run(&["man"]).fine();
    assert!(page.text().starts_with(".ie") && page.text().contains("moelten"), "{}", page.text());
    assert!(case.run(&["man", "run"]).fine().text().contains("QUESTION"));
}
