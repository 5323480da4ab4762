//! Threads: what they cost while there is nothing to compute.

#[cfg(target_os = "linux")]
mod measured {
    use std::fs;
    use std::process::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use moelten_engine::Model;
    use moelten_engine::runtime::cancel::Cancel;

    use crate::common::{folder, golden};
    use crate::store::disk::Behaviour;
    use crate::store::setup::{From, Setup, session};

    /// Set in a process that runs one of the tests here: other tests would be measured as well.
    const ALONE: &str = "MOELTEN_TEST_ALONE";

    /// Runs `work`, the test of this name, in a process of its own.
    fn alone(name: &str, work: impl FnOnce()) {
        if std::env::var_os(ALONE).is_some() {
            return work();
        }
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args([&format!("threads::measured::{name}"), "--exact", "--nocapture"]).env(ALONE, "1");
        let output = test.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    /// Computing time of all threads of this process.
    fn computed() -> Duration {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let of = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
            let stat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(tasks.filter_map(of).sum())
    }

    /// How often threads of this name have gone to sleep.
    fn sleeps(name: &str) -> u64 {
        let mut sum = 0;
        for task in fs::read_dir("/proc/self/task").unwrap() {
            let task = task.unwrap().path();
            if fs::read_to_string(task.join("comm")).unwrap().starts_with(name) {
                let status = fs::read_to_string(task.join("status")).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                sum += line.unwrap().trim().parse::<u64>().unwrap();
            }
        }
        sum
    }

    fn streaming(threads: usize, behaviour: Behaviour) -> Arc<Model> {
        let setup = Setup { from: From::Disk(behaviour), percent: 25, threads, ..Default::default() };
        setup.model(&folder("olmoe"))
    }

    #[test]
    fn workers_use_no_processor_while_a_pass_waits_for_the_disk() {
        alone("workers_use_no_processor_while_a_pass_waits_for_the_disk", || {
            for threads in [2, 4] {
                let stall = Duration::from_secs(3);
                let model = streaming(threads, Behaviour::Stall { at: 30, millis: 3000 });
                let (mut one, ids) = (session(&model), golden("olmoe").ids);
                let (before, started) = (computed(), Instant::now());
                ids.iter().for_each(|&id| one.decode(id, &Cancel::new(), &mut ()).unwrap());
                let (used, took) = (computed() - before, started.elapsed());
                assert!(took >= stall, "{took:?}");
                // A worker that spins uses all of it. A tenth has room for a slow machine.
                assert!(used < stall / 10, "{threads} threads computed {used:?} in {took:?}");
            }
        });
    }

    #[test]
    fn readers_sleep_while_no_sequence_is_open() {
        alone("readers_sleep_while_no_sequence_is_open", || {
            let model = streaming(1, Behaviour::Late(1));
            let sleeps_in_a_second = || {
                std::thread::sleep(Duration::from_millis(700));
                let before = sleeps("moelten-read");
                assert!(before > 0, "there are readers");
                std::thread::sleep(Duration::from_millis(1300));
                sleeps("moelten-read") - before
            };
            assert_eq!(sleeps_in_a_second(), 0, "no sequence has been open");
            let mut one = session(&model);
            one.decode(1, &Cancel::new(), &mut ()).unwrap();
            drop(one);
            assert_eq!(sleeps_in_a_second(), 0, "the sequence is gone");
            // Touched, or refused by the system.
            let _idle = session(&model);
            let _ = sleeps_in_a_second();
            assert_eq!(sleeps_in_a_second(), 0, "every slot has been touched");
        });
    }
}
