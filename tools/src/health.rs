//! The state of the machine that decides how fast a model runs: memory, power, file systems, and how the last
//! run ended. It must not know what is done about it.

pub mod power;
pub mod running;
pub mod shortage;
pub mod volume;

use std::path::PathBuf;

use moelten_engine::runtime::system::System;
use serde_json::{Value, json};

use power::{Heat, Power};
use shortage::{Process, Stalls, Swap, stall_words};
use volume::Volume;

/// What is found out about the machine, beside its speed.
#[derive(Debug)]
pub struct Health {
    swap: Option<Swap>,
    memory_stalls: Option<Stalls>,
    disk_stalls: Option<Stalls>,
    power: Power,
    /// Before something is measured, and after it.
    heat: (Heat, Heat),
    /// File systems that hold models.
    volumes: Vec<Volume>,
    processes: Vec<Process>,
    ended: Option<String>,
}

impl Health {
    /// Looks at the machine. `files` are files or folders of models; those that do not exist are left out.
    pub fn look(system: &System, files: &[PathBuf]) -> Self {
        let mut volumes: Vec<Volume> = Vec::new();
        for volume in files.iter().filter_map(|file| Volume::here(file)) {
            if !volumes.contains(&volume) {
                volumes.push(volume);
            }
        }
        let heat = Heat::of(system);
        Self {
            swap: Swap::of(system),
            memory_stalls: Stalls::of(system, "memory"),
            disk_stalls: Stalls::of(system, "io"),
            power: Power::of(system),
            heat: (heat, heat),
            volumes,
            processes: Process::all(system, env!("CARGO_BIN_NAME")),
            ended: running::ended_by_force(false),
        }
    }

    /// Looks at what measuring has changed.
    pub fn after_measuring(&mut self, system: &System) {
        self.heat.1 = Heat::of(system);
    }

    /// For people, a name and a text for each line. What the system does not say has no line.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        lines.extend(self.swap.map(|swap| ("swap", swap.words())));
        lines.extend(stall_words(self.memory_stalls, self.disk_stalls).map(|words| ("pressure", words)));
        lines.extend(self.processes.iter().map(|process| ("running", process.words())));
        lines.extend(self.volumes.iter().map(|volume| {
            let trap = volume.trap().map_or_else(String::new, |trap| format!("; {trap}"));
            ("files", volume.words() + &trap)
        }));
        lines.extend(self.power.words().map(|words| ("power", words)));
        lines.extend(self.heat.1.words(&self.heat.0).map(|words| ("heat", words)));
        lines.extend(self.ended.iter().map(|words| ("last run", words.clone())));
        lines
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "swap": self.swap.map(|swap| swap.json()),
            "pressure": {
                "memory": self.memory_stalls.map(|stalls| stalls.json()),
                "io": self.disk_stalls.map(|stalls| stalls.json()),
            },
            "running": self.processes.iter().map(Process::json).collect::<Vec<_>>(),
            "file_systems": self.volumes.iter().map(Volume::json).collect::<Vec<_>>(),
            "power": self.power.json(),
            "heat": self.heat.1.json(&self.heat.0),
            "ended_by_force": self.ended,
        })
    }
}
