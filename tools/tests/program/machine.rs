//! What this machine may not have: control groups of version 2, a clock that can be set. A virtual machine
//! has both. Faults F16, F17 and F21 of the project's list. The test is run by hand:
//!
//! ```sh
//! apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio
//! apt-get download linux-image-6.1.0-56-cloud-amd64 && dpkg-deb -x linux-image-*.deb kernel
//! export MOELTEN_KERNEL=$(ls $PWD/kernel/boot/vmlinuz-*)
//! cargo test --release -p moelten-tools --test program -- --ignored machine
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::streaming::many_experts;

/// The first program of the machine. `section NAME` begins a part of what it prints; `group NAME BYTES` makes
/// a control group with a limit; `in_group NAME COMMAND...` runs a command in it.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp MOELTEN_THREADS=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mount -t cgroup2 none /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
section() { echo; echo "@@ $1"; }
group() { mkdir /sys/fs/cgroup/$1; echo $2 > /sys/fs/cgroup/$1/memory.max; }
in_group() { sh -c 'echo $$ > /sys/fs/cgroup/$0/cgroup.procs; exec "$@"' "$@"; }

section groups
cat /proc/self/cgroup

section fit
group small 209715200
in_group small moelten fit /models/tiny.gguf --json --ctx 256 2>/dev/null

section small
in_group small moelten run /models/tiny.gguf -p hello --max-tokens 8 --temp 0
grep oom_kill /sys/fs/cgroup/small/memory.events

section tight
group tight 343932928
free="--temp 100 --top-k 0 --top-p 1 --min-p 0 --seed 1"
in_group tight moelten run /models/many.gguf -p "$(yes a dog and a cat | head -100)" --ram 72M --ctx 1k --max-tokens 12 $free --json 2>/dev/null
echo; echo peak $(cat /sys/fs/cgroup/tight/memory.peak)
grep oom_kill /sys/fs/cgroup/tight/memory.events

section pressure
group shared 335544320
(echo hello; sleep 6; echo again; sleep 1; echo /stats; sleep 1) |
    in_group shared moelten chat /models/tiny.gguf --io direct --max-tokens 4 2>/tmp/said &
sleep 3
in_group shared tail -c 278921216 /dev/zero >/dev/null &
sleep 7
kill $! 2>/dev/null
wait %1 2>/dev/null; sleep 1
cat /tmp/said
grep oom_kill /sys/fs/cgroup/shared/memory.events

section clock
moelten run /models/tiny.gguf -p hello --max-tokens 60 --temp 0 --json >/tmp/plain 2>/dev/null
moelten run /models/tiny.gguf -p hello --max-tokens 60 --temp 0 --json >/tmp/moved 2>/dev/null &
for day in 2025-01-01 2031-01-01 2026-11-29; do sleep 0.3; date -s $day >/dev/null; done
wait $!
cat /tmp/plain; echo; cat /tmp/moved; echo

section end
poweroff -f
"#;

/// Puts the program, the libraries that it needs, busybox and the models into an archive that the kernel
/// unpacks.
fn image(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    for name in ["bin", "proc", "sys", "dev", "tmp", "models"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_moelten");
    let libraries = Command::new("ldd").arg(program).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(library, target).unwrap();
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
    let strip = Command::new("strip").arg("-o").arg(root.join("bin/moelten")).arg(program).status();
    assert!(strip.unwrap().success());
    fs::copy(crate::common::builtin(), root.join("models/tiny.gguf")).unwrap();
    many_experts(&root.join("models/many.gguf"));
    fs::write(root.join("init"), INIT).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(root.join("init")).status().unwrap().success());
    let archive = folder.join("image");
    let pack = "find . | cpio -o -H newc --quiet > ../image";
    assert!(Command::new("sh").args(["-c", pack]).current_dir(&root).status().unwrap().success());
    archive
}

/// The lines of a section.
fn section<'t>(text: &'t str, name: &str) -> &'t str {
    let begin = text.find(&format!("@@ {name}\n")).unwrap_or_else(|| panic!("no {name} in {text}"));
    let section = &text[begin + name.len() + 4..];
    section.split("\n@@ ").next().unwrap()
}

fn object(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn json(text: &str) -> serde_json::Value {
    object(text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no object in {text}")))
}

#[test]
#[ignore = "needs qemu, busybox, cpio, and a kernel that MOELTEN_KERNEL names"]
fn f16_f17_f21_in_a_virtual_machine() {
    let kernel = std::env::var_os("MOELTEN_KERNEL").expect("MOELTEN_KERNEL names a kernel");
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path());
    let mut machine = Command::new("timeout");
    machine.args(["400", "qemu-system-x86_64"]);
    // Emulated: not every machine lets its guests have guests.
    machine.args(["-accel", "tcg", "-cpu", "max", "-m", "1200", "-nographic", "-no-reboot", "-nic", "none"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    machine.args(["-append", "console=ttyS0 panic=-1 quiet edd=off mitigations=off"]);
    let outcome = machine.stdin(Stdio::null()).output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    let text = String::from_utf8_lossy(&outcome.stdout).replace('\r', "");
    println!("{}", text[text.find("@@").unwrap_or(0)..].trim());
    assert_eq!(section(&text, "groups").trim(), "0::/", "version 2 alone");
    // Of little memory a share is left to others.
    let budget = json(section(&text, "fit"))["budget_bytes"].as_u64().unwrap();
    assert!((100 << 20..170 << 20).contains(&budget), "{budget}");
    assert!(section(&text, "small").contains("oom_kill 0"));
    let tight = section(&text, "tight");
    assert_eq!(json(tight)["stats"]["generated_tokens"], 12, "{tight}");
    let peak = tight.lines().find_map(|line| line.strip_prefix("peak ")).unwrap().parse::<u64>().unwrap();
    assert!(peak <= 328 << 20 && tight.contains("oom_kill 0"), "{tight}");
    let pressure = section(&text, "pressure");
    assert!(pressure.contains("Memory pressure") && pressure.contains("given back under memory pressure"));
    let clock: Vec<_> =
        section(&text, "clock").lines().filter(|line| line.starts_with('{')).map(object).collect();
    assert_eq!(clock[0]["ids"], clock[1]["ids"]);
    for answer in clock {
        let taken = answer["stats"]["generate_s"].as_f64().unwrap();
        assert!(taken > 0.0 && taken < 60.0, "{answer}");
    }
}
