//! A soak: a chat that stays open while `run` and `quantize` start again and again, on a disk that is full
//! now and then, with memory that gets tight and reads that are slow. Afterwards no conversation is lost,
//! nothing has grown, and no file is left over. The short one belongs to the tests; the long one takes the
//! seconds that `MOELTEN_SOAK` says:
//!
//! ```sh
//! MOELTEN_SOAK=3600 cargo test --release -p moelten-tools --test terminal -- --ignored --nocapture soak
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::common::cgroup::Group;
use crate::common::{Outcome, builtin, clean, run};
use crate::tmux::{Terminal, conversations_in};

/// Bytes of the disk for conversations and converted files.
const DISK: usize = 12 << 20;
/// Bytes of memory for the chat and the ballast beside it.
const MEMORY: u64 = 320 << 20;
/// Leaves less free than the chat leaves to others.
const BALLAST: u64 = 250 << 20;
/// Owned memory of the chat may drift by this many bytes.
const DRIFT: u64 = 16 << 20;
/// Longest wait for an answer: a long soak has the lowest priority.
const PATIENCE: Duration = Duration::from_secs(120);
/// Questions until the conversation is cleared, so that the context never fills up.
const TURNS: usize = 6;

#[test]
fn soak_of_seconds() {
    soak(Duration::from_secs(5));
}

#[test]
#[ignore = "takes as many seconds as MOELTEN_SOAK says"]
fn soak_as_long_as_asked() {
    let seconds = std::env::var("MOELTEN_SOAK").expect("MOELTEN_SOAK is a number of seconds");
    soak(Duration::from_secs(seconds.parse().expect("MOELTEN_SOAK is a number of seconds")));
}

fn soak(time: Duration) {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    let Some(disk) = SmallDisk::new(terminal.file("disk")) else {
        skip!("no tmpfs can be mounted; that needs root");
    };
    let mut world = World::new(&terminal, &disk);
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < 2 || started.elapsed() < time {
        world.round(rounds);
        rounds += 1;
        if rounds % 50 == 0 {
            println!("{rounds} rounds in {:?}; {}", started.elapsed(), world.figures());
        }
    }
    println!("{rounds} rounds in {:?}; {}", started.elapsed(), world.figures());
    world.end();
}

/// A file system of its own, of a fixed size.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs"]).arg(&path);
        mount.output().ok().filter(|mounted| mounted.status.success())?;
        Some(Self(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes until there is no room.
    fn fill(&self) {
        let _full = fs::write(self.file("filler"), vec![1; DISK]).expect_err("the disk is smaller");
    }

    fn empty(&self) {
        fs::remove_file(self.file("filler")).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Bytes that it owns.
    owned: u64,
    files: usize,
    threads: usize,
}

struct World<'w> {
    terminal: &'w Terminal,
    disk: &'w SmallDisk,
    /// Memory that the chat shares with a ballast; `None` where no group can be made.
    group: Option<Group>,
    ballast: Option<Child>,
    /// The questions of the present conversation.
    asked: Vec<String>,
    /// What a run answers, and the bytes that a conversion gives, undisturbed.
    answer: Vec<u8>,
    converted: Vec<u8>,
    can_trace: bool,
    /// Figures of the chat after the first rounds.
    first: Option<Figures>,
    /// How often the disk was full, a conversion was killed, and memory was tight.
    events: [u32; 3],
}

/// A folder that is converted: rows are wide enough for every type.
fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral-256")
}

fn program() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_moelten")))
}

fn quantize(mut command: Command, target: &Path) -> Command {
    command.arg("quantize").arg(source()).arg(target).args(["--type", "q4_k_m", "--threads", "1"]);
    command
}

/// Checks how a command ended. It may take its time, since a long soak has the lowest priority.
#[track_caller]
fn refused(ended: &Outcome, exit: i32, code: &str) {
    assert_eq!(ended.code, Some(exit), "{ended:?}");
    assert!(ended.err.contains(&format!("error[{code}]: ")) && !ended.err.contains("bug"), "{ended:?}");
}

/// An answer with experts that are read from the disk.
fn ask(mut command: Command) -> Outcome {
    command.arg("run").arg(builtin()).args(["-p", "Tell me a story", "--temp", "0", "--max-tokens", "16"]);
    run(command.args(["--ram", "min", "--io", "direct"]), b"").fine()
}

impl<'w> World<'w> {
    fn new(terminal: &'w Terminal, disk: &'w SmallDisk) -> Self {
        let whole = terminal.file("whole.gguf");
        run(&mut quantize(program(), &whole), b"").fine();
        let group = Group::new(MEMORY);
        if let Some(group) = &group {
            terminal.enter(&format!("echo $$ > {}", group.members().display()));
        }
        terminal.enter(&format!("export XDG_STATE_HOME={}", disk.0.display()));
        let model = builtin();
        terminal.begin(&format!("{} --io direct --max-tokens 12 --seed 1", model.display()));
        terminal.see("Type a message");
        let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
        Self {
            terminal,
            disk,
            group,
            ballast: None,
            asked: Vec::new(),
            answer: ask(program()).out,
            converted: fs::read(whole).unwrap(),
            can_trace: traced.is_ok_and(|traced| traced.status.success()),
            first: None,
            events: [0; 3],
        }
    }

    fn round(&mut self, round: usize) {
        self.squeeze(round);
        let full = round % 3 == 1;
        if full {
            self.disk.fill();
            self.events[0] += 1;
        }
        self.chat(round, full);
        if full {
            let ended = run(&mut quantize(program(), &self.disk.file("out.gguf")), b"");
            refused(&ended, 7, "E-DISK-01");
            self.disk.empty();
            self.chat(round, false);
        }
        self.convert(round);
        self.run(round);
        assert_eq!(self.disk.names(), ["moelten"], "round {round}: nothing else is left");
        let kept = fs::read_dir(self.disk.file("moelten")).unwrap().count();
        assert_eq!(
            kept, 3,
            "round {round}: the history, conversations, and the folder of runs that are open"
        );
        let open = fs::read_dir(self.disk.file("moelten/running")).unwrap().count();
        assert_eq!(open, 1, "round {round}: that of the chat");
        self.measure(round);
    }

    /// Lets a ballast take most of the memory in some rounds.
    fn squeeze(&mut self, round: usize) {
        let Some(group) = &self.group else { return };
        if let Some(mut ballast) = self.ballast.take() {
            let _ = ballast.kill();
            let _ = ballast.wait();
        } else if round % 4 == 2 {
            let line = format!("echo $$ > {} && exec tail -c {BALLAST} /dev/zero", group.members().display());
            let mut command = Command::new("sh");
            command.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.ballast = Some(command.spawn().unwrap());
            self.events[2] += 1;
        }
        assert_eq!(group.kills(), 0, "round {round}: the system killed a process");
    }

    fn kept(&self) -> Option<serde_json::Value> {
        let newest = conversations_in(&self.disk.file("moelten")).into_iter().next()?;
        let text = fs::read_to_string(newest).ok()?;
        Some(serde_json::from_str(&text).expect("a conversation that is complete"))
    }

    /// Asks, and waits until the answer is there and the conversation is saved, unless the disk is full.
    fn chat(&mut self, round: usize, full: bool) {
        if self.asked.len() >= TURNS && !full {
            self.terminal.enter("/clear");
            self.asked.clear();
        }
        let question = format!("question {} of round {round}", self.asked.len());
        self.terminal.enter(&question);
        self.asked.push(question.clone());
        let started = Instant::now();
        let answered = || {
            let sight = self.terminal.sight();
            let after = sight.rfind(question.as_str()).map(|at| sight[at..].contains("tok/s, context"));
            after.unwrap_or(false)
        };
        while !answered() {
            assert!(started.elapsed() < PATIENCE, "round {round}: no answer on\n{}", self.terminal.sight());
            std::thread::sleep(Duration::from_millis(20));
        }
        if full {
            // What was saved before is still complete.
            let _ = self.kept();
            return;
        }
        loop {
            let kept = self.kept().unwrap_or_default();
            let messages = kept["messages"].as_array().cloned().unwrap_or_default();
            let found = messages.iter().step_by(2).map(|message| message["content"].as_str().unwrap());
            if messages.len() == 2 * self.asked.len() && found.eq(self.asked.iter()) {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "round {round}: {:?}, {kept}", self.asked);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Conversions that are killed, run out of room at some byte, and complete.
    fn convert(&mut self, round: usize) {
        let target = self.disk.file("out.gguf");
        match round % 3 {
            0 => {
                let mut command = quantize(program(), &target);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut child = command.spawn().unwrap();
                std::thread::sleep(Duration::from_millis(10 + 7 * (round as u64 % 17)));
                child.kill().unwrap();
                child.wait().unwrap();
                self.events[1] += 1;
            }
            1 => {
                let mut limited = clean(Command::new("prlimit"));
                let limit = round * 7919 % self.converted.len();
                limited.arg(format!("--fsize={limit}")).arg(env!("CARGO_BIN_EXE_moelten"));
                refused(&run(&mut quantize(limited, &target), b""), 6, "E-IO-05");
            }
            _ => {}
        }
        let complete = |path: &Path| fs::read(path).unwrap() == self.converted;
        if target.exists() {
            // A fast machine may have finished before the kill.
            assert!(complete(&target), "round {round}: a file that is not complete");
            fs::remove_file(&target).unwrap();
        }
        run(&mut quantize(program(), &target), b"").fine();
        assert!(complete(&target), "round {round}: other bytes");
        fs::remove_file(target).unwrap();
    }

    /// The same answer, in some rounds from a disk with slow reads.
    fn run(&self, round: usize) {
        let mut command = program();
        if self.can_trace && round % 5 == 3 {
            command = clean(Command::new("strace"));
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64"]);
            command.args(["-e", "inject=pread64:delay_exit=30000:when=20+9", env!("CARGO_BIN_EXE_moelten")]);
        }
        assert!(ask(command).out == self.answer, "round {round}: another answer");
    }

    fn figures(&self) -> String {
        let [full, killed, tight] = self.events;
        let now = self.chat_figures();
        format!("{now:?} at first {:?}; disk full {full}, killed {killed}, memory tight {tight}", self.first)
    }

    fn chat_figures(&self) -> Figures {
        let pid = fs::read_to_string(self.terminal.file("pid")).unwrap().trim().to_owned();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the chat runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        Figures {
            owned: (field("RssAnon:") + field("RssShmem:")) * 1024,
            files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: usize::try_from(field("Threads:")).unwrap(),
        }
    }

    /// The chat has not grown since its first rounds.
    fn measure(&mut self, round: usize) {
        let now = self.chat_figures();
        // By then each kind of work has been done.
        if round < 2 * TURNS {
            self.first = Some(now);
        }
        let first = self.first.expect("set in the first round");
        assert!(now.owned <= first.owned + DRIFT, "round {round}: {now:?}, before {first:?}");
        assert!(
            now.files <= first.files + 2 && now.threads <= first.threads + 1,
            "{now:?}, before {first:?}"
        );
    }

    fn end(mut self) {
        if let Some(mut ballast) = self.ballast.take() {
            let _ = ballast.kill();
            let _ = ballast.wait();
        }
        self.terminal.press("C-d");
        self.terminal.over(0);
        let saved = self.kept().unwrap();
        assert_eq!(saved["messages"].as_array().unwrap().len(), 2 * self.asked.len());
    }
}
