//! `moelten quantize` when it is killed, when the disk fills up, when two run at once: the final name is
//! absent or complete, the rerun gives the same bytes, the input is untouched. Faults F09 to F11, F13, F24.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::common::{clean, run};

const TYPE: [&str; 2] = ["--type", "q4_k_m"];

/// A model folder whose rows are wide enough for every type.
fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral-256")
}

const FILES: [&str; 2] = ["config.json", "model.safetensors"];

/// A folder with a source and its target, and the bytes of an undisturbed conversion.
struct Setting {
    folder: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    expected: Vec<u8>,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("in"), folder.path().join("out.gguf"));
        std::fs::create_dir(&source).unwrap();
        for file in FILES {
            std::fs::copy(original().join(file), source.join(file)).unwrap();
        }
        let whole = folder.path().join("whole.gguf");
        run(command(&source, &whole).args(TYPE), b"").fine();
        let expected = std::fs::read(&whole).unwrap();
        std::fs::remove_file(whole).unwrap();
        Self { folder, source, target, expected }
    }

    fn quantize(&self) -> Command {
        let mut command = command(&self.source, &self.target);
        command.args(TYPE);
        command
    }

    /// Checks that the target is absent or complete; whether it is complete.
    fn complete(&self) -> bool {
        let complete = self.target.exists();
        if complete {
            assert!(std::fs::read(&self.target).unwrap() == self.expected, "complete, and something else");
        }
        for file in FILES {
            let [now, before] =
                [&self.source, &original()].map(|folder| std::fs::read(folder.join(file)).unwrap());
            assert!(now == before, "the input changed");
        }
        complete
    }

    /// Checks that there are no files but the source and the target.
    fn clean(&self) {
        let names: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1 + usize::from(self.target.exists()), "{names:?}");
    }
}

fn command(source: &Path, target: &Path) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_moelten")));
    command.arg("quantize").args([source, target]).args(["--threads", "1"]);
    command
}

/// Pseudo-random numbers: Knuth's MMIX generator.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn f11_killed_at_200_points() {
    let setting = Setting::new();
    let (mut state, mut completed) = (7, 0);
    let begun = Instant::now();
    start(setting.quantize()).wait().unwrap();
    let whole = begun.elapsed().as_micros() as u64;
    std::fs::remove_file(&setting.target).unwrap();
    for _ in 0..200 {
        let mut child = start(setting.quantize());
        std::thread::sleep(Duration::from_micros(random(&mut state) % whole));
        child.kill().unwrap();
        child.wait().unwrap();
        if setting.complete() {
            completed += 1;
            std::fs::remove_file(&setting.target).unwrap();
        }
    }
    run(&mut setting.quantize(), b"").fine();
    assert!(setting.complete());
    setting.clean();
    println!("complete before the signal came: {completed} of 200");
}

/// A file size limit simulates a full disk: the write fails at exactly that byte.
#[test]
fn f09_no_room_at_200_points() {
    let setting = Setting::new();
    let most = setting.expected.len() as u64;
    let mut state = 11;
    let mut resumed = 0;
    for point in 0..200 {
        // Some start over, some resume.
        if point % 4 == 0 {
            for name in ["out.gguf.partial", "out.gguf.partial.journal"] {
                let _ = std::fs::remove_file(setting.folder.path().join(name));
            }
        }
        let limit = random(&mut state) % most;
        let mut limited = clean(Command::new("prlimit"));
        limited.arg(format!("--fsize={limit}")).arg(env!("CARGO_BIN_EXE_moelten")).arg("quantize");
        limited.args([&setting.source, &setting.target]).args(["--threads", "1"]).args(TYPE);
        let outcome = run(&mut limited, b"").refused(6, "E-IO-05");
        resumed += u32::from(outcome.err.contains("resuming at"));
        assert!(!setting.complete(), "{limit} of {most}");
    }
    assert!(resumed > 20, "unfinished files are resumed: {resumed}");
    run(&mut setting.quantize(), b"").fine();
    assert!(setting.complete());
    setting.clean();
}

/// A disk that is too small: refused before anything is written.
#[test]
#[cfg(target_os = "linux")]
fn f09_a_small_disk() {
    let setting = Setting::new();
    let disk = setting.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let size = format!("size={}", setting.expected.len() * 2 / 3);
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        skip!("no tmpfs can be mounted; that needs root");
    }
    let target = disk.join("out.gguf");
    let refused = run(command(&setting.source, &target).args(TYPE), b"");
    let left = std::fs::read_dir(&disk).unwrap().count();
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    let refused = refused.refused(7, "E-DISK-01");
    assert!(refused.err.contains("free 418 KiB more"), "{}", refused.err);
    assert!(left == 0 && unmounted.success());
    std::fs::remove_dir(disk).unwrap();
    setting.clean();
}

/// Stopped by a signal: the exit code names it, and the same command resumes.
#[test]
fn f13_signals_leave_what_can_be_resumed_with() {
    let setting = Setting::new();
    for (signal, code) in [(2, 130), (15, 143), (1, 129)] {
        let mut stopped = false;
        for wait in (2..40).step_by(2) {
            let mut child = start(setting.quantize());
            std::thread::sleep(Duration::from_millis(wait));
            Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
            let status = child.wait().unwrap();
            if setting.complete() {
                std::fs::remove_file(&setting.target).unwrap();
            } else {
                // The first moments have the system's default signal handling.
                assert!(status.code().is_none_or(|found| found == code), "signal {signal}: {status}");
                stopped |= status.code() == Some(code);
            }
        }
        assert!(stopped, "signal {signal} never came in time");
    }
    run(&mut setting.quantize(), b"").fine();
    assert!(setting.complete());
    setting.clean();
}

#[test]
fn f24_two_do_not_write_one_file() {
    let setting = Setting::new();
    let mut partial = setting.target.clone().into_os_string();
    partial.push(".partial");
    let held = std::fs::File::create(&partial).unwrap();
    held.lock().unwrap();
    let outcome = run(&mut setting.quantize(), b"").refused(6, "E-IO-05");
    assert!(outcome.err.contains("another process is writing it"), "{}", outcome.err);
    drop(held);
    run(&mut setting.quantize(), b"").fine();
    assert!(setting.complete());
    setting.clean();
}

/// Several at once: the file is complete whichever was first, and those that were not say so or write it
/// again.
#[test]
fn f24_processes_that_start_at_once() {
    let setting = Setting::new();
    for _ in 0..5 {
        let children: Vec<_> = (0..3).map(|_| start(setting.quantize())).collect();
        let codes: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap().code()).collect();
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 6))), "{codes:?}");
        assert!(codes.contains(&Some(0)) && setting.complete(), "{codes:?}");
        setting.clean();
        std::fs::remove_file(&setting.target).unwrap();
    }
}

/// Partial files of another conversion, or damaged ones, are not resumed.
#[test]
fn leftovers_are_looked_at() {
    let setting = Setting::new();
    let unfinished = |options: &[&str], limit: usize| {
        let mut limited = clean(Command::new("prlimit"));
        limited.arg(format!("--fsize={limit}")).arg(env!("CARGO_BIN_EXE_moelten")).arg("quantize");
        run(limited.args([&setting.source, &setting.target]).args(options), b"").refused(6, "E-IO-05");
    };
    let size = setting.expected.len();
    unfinished(&["--type", "q6_k"], size * 3 / 4);
    let outcome = run(&mut setting.quantize(), b"").fine();
    assert!(outcome.err.contains("of another source or with other options"), "{}", outcome.err);
    assert!(setting.complete());
    std::fs::remove_file(&setting.target).unwrap();

    // A damaged byte in the complete part: everything before it is kept.
    unfinished(&TYPE, size * 3 / 4);
    let partial = setting.folder.path().join("out.gguf.partial");
    let mut bytes = std::fs::read(&partial).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&partial, bytes).unwrap();
    let outcome = run(&mut setting.quantize(), b"").fine();
    assert!(outcome.err.contains("resuming at"), "{}", outcome.err);
    assert!(setting.complete());
    setting.clean();
}

/// No input is ever written to, whatever the names are.
#[test]
fn inputs_are_never_outputs() {
    let setting = Setting::new();
    let folder = setting.folder.path();
    let sound = std::fs::read(crate::common::builtin()).unwrap();
    let packed =
        |source: &Path, target: &Path| run(command(source, target).args(["--layout", "packed"]), b"");
    // The unfinished file would be the source, by its name or through a link.
    let named = folder.join("m.gguf.partial");
    std::fs::write(&named, &sound).unwrap();
    packed(&named, &folder.join("m.gguf")).refused(6, "E-IO-05");
    assert!(std::fs::read(&named).unwrap() == sound);
    let source = folder.join("s.gguf");
    std::fs::write(&source, &sound).unwrap();
    for name in ["o.gguf.partial", "o.gguf.partial.journal"] {
        let link = folder.join(name);
        std::os::unix::fs::symlink(&source, &link).unwrap();
        packed(&source, &folder.join("o.gguf")).refused(6, "E-IO-05");
        assert!(std::fs::read(&source).unwrap() == sound, "{name}");
        std::fs::remove_file(link).unwrap();
    }
    // Files of other programs are not overwritten.
    std::fs::write(folder.join("o.gguf.partial"), b"half a download").unwrap();
    let outcome = packed(&source, &folder.join("o.gguf")).refused(6, "E-IO-05");
    assert!(outcome.err.contains("not an unfinished file of this program"), "{}", outcome.err);
    assert_eq!(std::fs::read(folder.join("o.gguf.partial")).unwrap(), b"half a download");
    // The other files of the folder are inputs too, and a folder is not a file.
    run(command(&setting.source, &setting.source.join("config.json")).args(TYPE), b"").refused(6, "E-IO-05");
    run(command(&setting.source, &folder.join("new/")).args(TYPE), b"").refused(6, "E-IO-05");
    setting.complete();
}

/// A symbolic link stays one; the file is written to its target.
#[test]
fn links_are_followed_to_where_the_file_belongs() {
    let setting = Setting::new();
    let (real, link) = (setting.folder.path().join("real.gguf"), setting.folder.path().join("link.gguf"));
    std::fs::write(&real, b"old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    run(command(&setting.source, &link).args(TYPE).arg("--force"), b"").fine();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read(&real).unwrap() == setting.expected);
}
