//! Which CPUs the worker threads belong on: cores and their hyperthreads, performance and efficiency cores,
//! the affinity mask and the CPU quota, and from these how many threads there should be and whether each is
//! tied to its core. It must not know what the threads do.

use std::fmt;
use std::time::Duration;

use crate::error::{EngineError, Result};
use crate::runtime::system::System;

/// A core this much slower than the fastest is an efficiency core, in percent. Favoured cores of desktops
/// differ by less.
const PERFORMANCE_PERCENT: u64 = 80;
/// How often the number of running tasks is looked at, and how long apart.
const LOOKS: usize = 5;
const LOOK_EVERY: Duration = Duration::from_micros(400);

/// Whether worker threads are tied to CPUs (`--pin`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pin {
    /// If there is one thread for each performance core, the whole machine may be used, and other programs
    /// leave room.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A physical core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Its CPUs that are online, ascending: more than one with hyperthreads.
    pub cpus: Vec<usize>,
    /// Whether it is among the fast ones.
    pub performance: bool,
}

/// The CPUs of a machine, as one process may use them.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Every core that is online, by its first CPU.
    pub cores: Vec<Core>,
    /// CPUs of the affinity mask, ascending.
    pub allowed: Vec<usize>,
    /// Number of CPUs that are online.
    pub online: usize,
    /// CPU time per time that the control groups give, e.g. 1.5.
    pub quota: Option<f64>,
}

/// How many threads, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Number of threads, at least 1.
    pub threads: usize,
    /// Where they run.
    pub placement: Placement,
}

/// Where threads run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Each on its own CPU, one for each thread.
    Pinned(Vec<usize>),
    /// Wherever the system puts them, and why.
    Free(&'static str),
}

impl fmt::Display for ThreadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} thread{}, ", self.threads, if self.threads == 1 { "" } else { "s" })?;
        match &self.placement {
            Placement::Pinned(cpus) => {
                let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
                write!(f, "pinned to CPU {}", cpus.join(", "))
            }
            Placement::Free(why) => write!(f, "not pinned ({why})"),
        }
    }
}

impl Topology {
    /// This machine's; `None` where the system does not describe it.
    pub fn detect() -> Option<Self> {
        Self::read(&System::here())
    }

    /// The topology that `/proc` and `/sys` of `system` describe.
    pub fn read(system: &System) -> Option<Self> {
        let online = system.cpus("sys/devices/system/cpu/online")?;
        let mask = system.field("proc/self/status", "Cpus_allowed_list")?;
        let allowed = crate::runtime::system::cpu_list(&mask)?;
        let allowed: Vec<usize> = allowed.into_iter().filter(|cpu| online.contains(cpu)).collect();
        let mut cores: Vec<Core> = Vec::new();
        let fast = fast_cpus(system, &online);
        for &cpu in &online {
            if cores.iter().any(|core| core.cpus.contains(&cpu)) {
                continue;
            }
            let siblings = system
                .cpus(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
                .unwrap_or_default();
            // A core without a description stands for itself.
            let mut cpus: Vec<usize> =
                siblings.into_iter().filter(|&other| other > cpu && online.contains(&other)).collect();
            cpus.insert(0, cpu);
            cores.push(Core { performance: fast.contains(&cpu), cpus });
        }
        (!allowed.is_empty()).then(|| Self { cores, allowed, online: online.len(), quota: quota(system) })
    }

    /// The cores that compute: performance cores with a CPU in the affinity mask, or whatever cores there are
    /// if the mask has no fast one. Each is given by its first CPU in the mask.
    pub fn workers(&self) -> Vec<usize> {
        let fast = self.first_cpus(|core| core.performance);
        if fast.is_empty() { self.first_cpus(|_| true) } else { fast }
    }

    fn first_cpus(&self, wanted: impl Fn(&Core) -> bool) -> Vec<usize> {
        let first = |core: &Core| core.cpus.iter().copied().find(|cpu| self.allowed.contains(cpu));
        self.cores.iter().filter(|core| wanted(core)).filter_map(first).collect()
    }

    /// Every CPU of the mask, best first: one of each performance core, one of each other core, then second
    /// hyperthreads.
    fn by_preference(&self) -> Vec<usize> {
        let mut order = self.first_cpus(|core| core.performance);
        order.extend(self.first_cpus(|core| !core.performance));
        let rest: Vec<usize> = self.allowed.iter().copied().filter(|cpu| !order.contains(cpu)).collect();
        order.extend(rest);
        order
    }

    /// The default number of threads: one for each of [`Self::workers`], but no more than the quota keeps
    /// busy.
    pub fn default_threads(&self) -> usize {
        let cores = self.workers().len();
        self.quota.map_or(cores, |quota| cores.min(quota.ceil() as usize)).max(1)
    }

    /// Settles threads and places while `others` tasks of other processes are running.
    ///
    /// # Errors
    /// [`EngineError::Setting`] when more threads shall be pinned than there are CPUs.
    pub fn plan(&self, threads: Option<usize>, pin: Pin, others: usize) -> Result<ThreadPlan> {
        let threads = threads.unwrap_or_else(|| self.default_threads());
        let workers = self.workers();
        let placement = match pin {
            Pin::Off => Placement::Free("as asked"),
            Pin::On if threads > self.allowed.len() => {
                return Err(EngineError::Setting {
                    setting: "the number of pinned threads",
                    found: format!("{threads} on {} CPUs", self.allowed.len()),
                    must: "at most one for each CPU that this process may use",
                });
            }
            Pin::On => Placement::Pinned(self.by_preference().into_iter().take(threads).collect()),
            Pin::Auto if threads == 1 => Placement::Free("a single thread is best placed by the system"),
            Pin::Auto if self.allowed.len() < self.online => {
                Placement::Free("this process may not use every CPU of the machine")
            }
            Pin::Auto if self.quota.is_some() => Placement::Free("a CPU quota is in force"),
            Pin::Auto if threads != workers.len() => {
                Placement::Free("there is not one thread for each performance core")
            }
            Pin::Auto if others > self.online - threads => {
                Placement::Free("other programs are using the cores")
            }
            Pin::Auto => Placement::Pinned(workers),
        };
        Ok(ThreadPlan { threads, placement })
    }
}

impl ThreadPlan {
    /// The plan for this machine as it is now.
    ///
    /// # Errors
    /// As [`Topology::plan`].
    pub fn here(threads: Option<usize>, pin: Pin) -> Result<Self> {
        if let Some(topology) = Topology::detect() {
            let others = if pin == Pin::Auto { running_others(&System::here()) } else { 0 };
            return topology.plan(threads, pin, others);
        }
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let cpus: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        let placement = match pin {
            Pin::Off => Placement::Free("as asked"),
            _ if cfg!(target_vendor = "apple") => Placement::Free("this system does not pin threads"),
            Pin::On if threads <= cpus.len() => Placement::Pinned(cpus.into_iter().take(threads).collect()),
            _ => Placement::Free("the system does not say which CPUs are cores of their own"),
        };
        Ok(Self { threads, placement })
    }
}

/// The CPUs of performance cores.
fn fast_cpus(system: &System, online: &[usize]) -> Vec<usize> {
    // Hybrid processors of Intel have a device for each kind of core.
    if let Some(fast) = system.cpus("sys/devices/cpu_core/cpus").filter(|cpus| !cpus.is_empty()) {
        return fast;
    }
    for file in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let speed = |&cpu: &usize| system.number(&format!("sys/devices/system/cpu/cpu{cpu}/{file}"));
        let Some(speeds) = online.iter().map(speed).collect::<Option<Vec<u64>>>() else { continue };
        let fastest = speeds.iter().copied().max().unwrap_or(0);
        let fast = |speed: u64| speed.saturating_mul(100) >= fastest.saturating_mul(PERFORMANCE_PERCENT);
        return online.iter().zip(speeds).filter(|&(_, speed)| fast(speed)).map(|(&cpu, _)| cpu).collect();
    }
    online.to_vec()
}

/// The tightest CPU quota of the control groups.
fn quota(system: &System) -> Option<f64> {
    let groups = system.groups("cpu").into_iter();
    let quotas = groups.filter_map(|group| {
        let (quota, period) = if group.unified {
            let text = group.text("cpu.max")?;
            let mut fields = text.split_whitespace();
            (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?)
        } else {
            // Without a limit, version 2 says "max" and version 1 says -1: neither is such a number.
            (group.number("cpu.cfs_quota_us")?, group.number("cpu.cfs_period_us")?)
        };
        (period > 0).then(|| quota as f64 / period as f64)
    });
    quotas.min_by(f64::total_cmp)
}

/// Tasks beside this one that are running or waiting for a CPU: the median of a few looks.
fn running_others(system: &System) -> usize {
    let mut counts: Vec<usize> = (0..LOOKS)
        .filter_map(|look| {
            if look > 0 {
                std::thread::sleep(LOOK_EVERY);
            }
            running(&system.text("proc/loadavg")?)
        })
        .collect();
    counts.sort_unstable();
    // This thread is running while it looks.
    counts.get(counts.len() / 2).map_or(0, |count| count.saturating_sub(1))
}

/// Running tasks of `/proc/loadavg`: `0.20 0.18 0.12 1/80 11206`.
fn running(loadavg: &str) -> Option<usize> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A recorded machine: paths below `/` and what the files say.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(cpus: usize, mask: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine.file("sys/devices/system/cpu/online", &format!("0-{}", cpus - 1));
            machine.file("proc/self/status", &format!("Name:\tx\nCpus_allowed_list:\t{mask}\n"));
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        fn cpu(&self, cpu: usize, file: &str, text: &str) {
            self.file(&format!("sys/devices/system/cpu/cpu{cpu}/{file}"), text);
        }

        fn topology(&self) -> Topology {
            Topology::read(&System::at(self.0.path())).unwrap()
        }
    }

    /// As on a Core i9-13900K: eight cores of two hyperthreads, then sixteen small ones.
    fn hybrid(mask: &str) -> Machine {
        let machine = Machine::new(32, mask);
        for cpu in 0..32 {
            let core =
                if cpu < 16 { format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1) } else { cpu.to_string() };
            machine.cpu(cpu, "topology/thread_siblings_list", &core);
            machine.cpu(cpu, "cpufreq/cpuinfo_max_freq", if cpu < 16 { "5500000" } else { "4300000" });
        }
        machine.file("sys/devices/cpu_core/cpus", "0-15");
        machine.file("sys/devices/cpu_atom/cpus", "16-31");
        machine
    }

    /// As on a Ryzen 7 5800X: the hyperthreads of core n are n and n + 8; the cores differ a little in speed.
    fn desktop() -> Machine {
        let machine = Machine::new(16, "0-15");
        for cpu in 0..16 {
            machine.cpu(cpu, "topology/thread_siblings_list", &format!("{},{}", cpu % 8, cpu % 8 + 8));
            machine.cpu(cpu, "cpufreq/cpuinfo_max_freq", if cpu % 8 == 3 { "4850000" } else { "4650000" });
        }
        machine
    }

    /// A virtual machine of two cores.
    fn small() -> Machine {
        let machine = Machine::new(2, "0-1");
        for cpu in 0..2 {
            machine.cpu(cpu, "topology/thread_siblings_list", &cpu.to_string());
            machine.cpu(cpu, "cpu_capacity", "1024");
        }
        machine
    }

    fn pinned(cpus: impl IntoIterator<Item = usize>) -> Placement {
        Placement::Pinned(cpus.into_iter().collect())
    }

    #[test]
    fn a_hybrid_works_on_its_performance_cores() {
        let t = hybrid("0-31").topology();
        assert_eq!((t.cores.len(), t.workers()), (24, vec![0, 2, 4, 6, 8, 10, 12, 14]));
        let plan = t.plan(None, Pin::Auto, 3).unwrap();
        assert_eq!(plan, ThreadPlan { threads: 8, placement: pinned((0..16).step_by(2)) });
        // Even asked for more, cores come before second hyperthreads.
        let all = t.plan(Some(26), Pin::On, 0).unwrap();
        assert_eq!(all.placement, pinned((0..16).step_by(2).chain(16..32).chain([1, 3])));
        assert!(t.plan(Some(33), Pin::On, 0).is_err());
    }

    #[test]
    fn a_mask_of_small_cores_is_used_and_not_pinned() {
        let t = hybrid("16-19").topology();
        assert_eq!(t.workers(), [16, 17, 18, 19]);
        let plan = t.plan(None, Pin::Auto, 0).unwrap();
        assert!(plan.threads == 4 && matches!(plan.placement, Placement::Free(_)), "{plan}");
        // The first hyperthread of a core is out of bounds: the second stands for it.
        assert_eq!(hybrid("1,4,5").topology().workers(), [1, 4]);
    }

    #[test]
    fn hybrids_without_devices_are_told_apart_by_capacity() {
        let machine = Machine::new(8, "0-7");
        for cpu in 0..8 {
            machine.cpu(cpu, "cpu_capacity", ["446", "871", "1024"][cpu / 4 + cpu / 7]);
        }
        assert_eq!(machine.topology().workers(), [4, 5, 6, 7]);
    }

    #[test]
    fn a_desktop_has_one_thread_for_each_core() {
        let t = desktop().topology();
        assert_eq!(t.workers(), Vec::from_iter(0..8));
        assert_eq!(t.plan(None, Pin::Auto, 8).unwrap().placement, pinned(0..8));
        assert!(matches!(t.plan(None, Pin::Auto, 9).unwrap().placement, Placement::Free(_)));
        assert!(matches!(t.plan(Some(7), Pin::Auto, 0).unwrap().placement, Placement::Free(_)));
        assert!(matches!(t.plan(None, Pin::Off, 0).unwrap().placement, Placement::Free("as asked")));
    }

    #[test]
    fn a_small_machine_is_pinned_while_no_other_program_runs() {
        let t = small().topology();
        let plan = t.plan(None, Pin::Auto, 0).unwrap();
        assert_eq!(plan.to_string(), "2 threads, pinned to CPU 0, 1");
        assert!(matches!(t.plan(None, Pin::Auto, 1).unwrap().placement, Placement::Free(_)));
        assert_eq!(t.plan(None, Pin::On, 5).unwrap().placement, pinned([0, 1]));
        assert_eq!(t.plan(Some(1), Pin::On, 0).unwrap().placement, pinned([0]));
    }

    #[test]
    fn a_quota_is_rounded_up() {
        let machine = desktop();
        machine.file("proc/self/cgroup", "0::/user/app");
        machine.file("sys/fs/cgroup/user/cpu.max", "150000 100000");
        machine.file("sys/fs/cgroup/user/app/cpu.max", "max 100000");
        let t = machine.topology();
        assert_eq!((t.quota, t.default_threads()), (Some(1.5), 2));
        assert!(matches!(t.plan(None, Pin::Auto, 0).unwrap().placement, Placement::Free(_)));

        let machine = desktop();
        machine.file("proc/self/cgroup", "3:cpu,cpuacct:/box");
        machine.file("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000");
        machine.file("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000");
        machine.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1");
        machine.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
        assert_eq!(machine.topology().default_threads(), 1);
    }

    #[test]
    fn a_machine_without_descriptions_is_all_cores() {
        let t = Machine::new(4, "0-3").topology();
        assert_eq!(t.workers(), [0, 1, 2, 3]);
        assert_eq!(Topology::read(&System::at(std::path::Path::new("/nowhere"))), None);
    }

    #[test]
    fn reads_the_number_of_running_tasks() {
        assert_eq!(running("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(running("0.20 0.18"), None);
    }
}
