//! What slows a processor down: battery, power profile, governor, limits of the clock, heat. It must not
//! measure anything.

use moelten_engine::runtime::system::System;
use serde_json::{Value, json};

/// Where the power comes from and how it is used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Power {
    /// Charge of the battery in percent, if the machine runs on it.
    pub battery: Option<u64>,
    /// Whether a mains adapter is plugged in; `None` where there is none to ask.
    pub mains: Option<bool>,
    /// The platform's profile: `low-power`, `balanced`, `performance`.
    pub profile: Option<String>,
    /// The governor of the first CPU's clock.
    pub governor: Option<String>,
    /// What drivers with a governor of their own are told to prefer.
    pub preference: Option<String>,
    /// Highest clock that is allowed now, and that of the processor, in kHz.
    pub clock: Option<(u64, u64)>,
}

impl Power {
    /// What the system says; parts may be missing.
    pub fn of(system: &System) -> Self {
        let word =
            |path: &str| system.text(path).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let cpu = |name: &str| format!("sys/devices/system/cpu/cpu0/cpufreq/{name}");
        let (mut battery, mut mains) = (None, None);
        for name in system.names("sys/class/power_supply") {
            let part = |file: &str| word(&format!("sys/class/power_supply/{name}/{file}"));
            // Mice and headsets have batteries too; theirs supply no system.
            if part("scope").is_some_and(|scope| scope == "Device") {
                continue;
            }
            match part("type").as_deref() {
                Some("Battery") if part("status").is_some_and(|status| status == "Discharging") => {
                    battery = part("capacity").and_then(|percent| percent.parse().ok()).or(Some(0));
                }
                Some("Mains" | "USB") => {
                    let online = part("online").is_some_and(|online| online != "0");
                    mains = Some(online || mains.unwrap_or(false));
                }
                _ => {}
            }
        }
        let clock = system.number(&cpu("scaling_max_freq")).zip(system.number(&cpu("cpuinfo_max_freq")));
        Self {
            battery,
            mains,
            profile: word("sys/firmware/acpi/platform_profile"),
            governor: word(&cpu("scaling_governor")),
            preference: word(&cpu("energy_performance_preference")),
            clock,
        }
    }

    /// For people; `None` if nothing is known.
    pub fn words(&self) -> Option<String> {
        let mut parts = Vec::new();
        match (self.battery, self.mains) {
            (Some(percent), _) => parts.push(format!("on battery ({percent} %)")),
            (None, Some(true)) => parts.push("on mains".to_owned()),
            _ => {}
        }
        parts.extend(self.profile.iter().map(|profile| format!("profile {profile}")));
        parts.extend(self.governor.iter().map(|governor| format!("governor {governor}")));
        parts.extend(self.preference.iter().map(|preference| format!("prefers {preference}")));
        if let Some((now, most)) = self.clock.filter(|(now, most)| now < most) {
            let ghz = |khz: u64| khz as f64 / 1e6;
            parts.push(format!("clock limited to {:.1} of {:.1} GHz", ghz(now), ghz(most)));
        }
        if parts.is_empty() {
            return None;
        }
        let advice = if self.saves() { "; saves power: figures are lower than they could be" } else { "" };
        Some(parts.join(", ") + advice)
    }

    /// Whether something here makes the processor slower than it is.
    pub fn saves(&self) -> bool {
        let is = |word: &Option<String>, of: &[&str]| word.as_deref().is_some_and(|word| of.contains(&word));
        // With a preference, `powersave` is the driver's ordinary governor.
        let slow_governor = self.preference.is_none() && is(&self.governor, &["powersave", "conservative"]);
        self.battery.is_some()
            || slow_governor
            || is(&self.profile, &["low-power", "quiet", "cool"])
            || is(&self.preference, &["power", "balance_power"])
            || self.clock.is_some_and(|(now, most)| now < most)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "on_battery": self.battery.is_some(), "battery_percent": self.battery, "mains": self.mains,
            "profile": self.profile, "governor": self.governor, "preference": self.preference,
            "clock_limit_khz": self.clock.map(|(now, _)| now),
            "clock_khz": self.clock.map(|(_, most)| most), "saves": self.saves(),
        })
    }
}

/// How often the processor was slowed down because it was hot, and how hot it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Heat {
    /// Times since the machine started, over all cores; `None` where it is not counted.
    pub throttled: Option<u64>,
    /// Temperature of the hottest zone, in degrees Celsius.
    pub degrees: Option<f64>,
}

impl Heat {
    /// What the system says now.
    pub fn of(system: &System) -> Self {
        let count = |cpu: &String| {
            let file =
                |name: &str| system.number(&format!("sys/devices/system/cpu/{cpu}/thermal_throttle/{name}"));
            [file("core_throttle_count"), file("package_throttle_count")].into_iter().flatten().max()
        };
        let is_cpu = |name: &String| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
        let cpus = system.names("sys/devices/system/cpu").into_iter().filter(is_cpu);
        let counts: Vec<u64> = cpus.filter_map(|cpu| count(&cpu)).collect();
        let zones = system.names("sys/class/thermal").into_iter();
        let zones = zones.filter(|name| name.starts_with("thermal_zone"));
        let degrees = zones
            .filter_map(|zone| system.number(&format!("sys/class/thermal/{zone}/temp")))
            .map(|thousandths| thousandths as f64 / 1000.0)
            .max_by(f64::total_cmp);
        Self { throttled: (!counts.is_empty()).then(|| counts.iter().sum()), degrees }
    }

    /// For people: what changed while something was measured, from `before`. `None` if nothing is known.
    pub fn words(&self, before: &Self) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(now) = self.throttled {
            let during = now.saturating_sub(before.throttled.unwrap_or(now));
            parts.push(match (during, now) {
                (0, 0) => "never throttled since the start".to_owned(),
                (0, now) => format!("not throttled while measuring ({now} times since the start)"),
                (during, _) => format!("throttled {during} times while measuring: the processor is too hot"),
            });
        }
        parts.extend(self.degrees.map(|degrees| format!("hottest sensor {degrees:.0} \u{b0}C")));
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// For programs.
    pub fn json(&self, before: &Self) -> Value {
        let during = self.throttled.map(|now| now.saturating_sub(before.throttled.unwrap_or(now)));
        json!({ "throttled": self.throttled, "throttled_while_measuring": during, "degrees_c": self.degrees })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn record(root: &Path, files: &[(&str, &str)]) -> System {
        for (name, text) in files {
            let path = root.join("sys").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        System::at(root)
    }

    /// A laptop on its battery, with a wireless mouse.
    const LAPTOP: &[(&str, &str)] = &[
        ("class/power_supply/ADP1/type", "Mains\n"),
        ("class/power_supply/ADP1/online", "0\n"),
        ("class/power_supply/BAT0/type", "Battery\n"),
        ("class/power_supply/BAT0/status", "Discharging\n"),
        ("class/power_supply/BAT0/capacity", "54\n"),
        ("class/power_supply/hid-mouse/type", "Battery\n"),
        ("class/power_supply/hid-mouse/scope", "Device\n"),
        ("class/power_supply/hid-mouse/status", "Discharging\n"),
        ("class/power_supply/hid-mouse/capacity", "9\n"),
        ("firmware/acpi/platform_profile", "low-power\n"),
        ("devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("devices/system/cpu/cpu0/cpufreq/energy_performance_preference", "balance_power\n"),
        ("devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "2100000\n"),
        ("devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "4700000\n"),
    ];

    #[test]
    fn a_laptop_on_its_battery_saves_power() {
        let root = tempfile::tempdir().unwrap();
        let power = Power::of(&record(root.path(), LAPTOP));
        assert_eq!(
            power.words().unwrap(),
            "on battery (54 %), profile low-power, governor powersave, prefers balance_power, clock limited to 2.1 of \
             4.7 GHz; saves power: figures are lower than they could be"
        );
        let plugged = [
            ("class/power_supply/ADP1/online", "1\n"),
            ("class/power_supply/BAT0/status", "Full\n"),
            ("firmware/acpi/platform_profile", "balanced\n"),
            ("devices/system/cpu/cpu0/cpufreq/energy_performance_preference", "balance_performance\n"),
            ("devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "4700000\n"),
        ];
        let power = Power::of(&record(root.path(), &plugged));
        // The governor's name alone says nothing where the driver has a preference.
        assert!(!power.saves(), "{power:?}");
        assert!(power.words().unwrap().starts_with("on mains, profile balanced"), "{power:?}");
    }

    #[test]
    fn an_old_governor_counts_and_a_machine_without_facts_has_no_line() {
        let root = tempfile::tempdir().unwrap();
        let governor = [("devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")];
        assert!(Power::of(&record(root.path(), &governor)).saves());
        let nothing = Power::of(&System::at(Path::new("/nowhere")));
        assert_eq!((nothing.words(), nothing.saves()), (None, false));
    }

    #[test]
    fn throttling_counts_while_something_is_measured() {
        let root = tempfile::tempdir().unwrap();
        let at = |core: &str, package: &str| {
            let files = [
                ("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", core),
                ("devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", package),
                ("devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "1\n"),
                ("devices/system/cpu/cpufreq/unrelated", "9\n"),
                ("class/thermal/thermal_zone0/temp", "48000\n"),
                ("class/thermal/thermal_zone1/temp", "96500\n"),
                ("class/thermal/cooling_device0/temp", "99000\n"),
            ];
            Heat::of(&record(root.path(), &files))
        };
        let (before, after) = (at("3\n", "5\n"), at("3\n", "9\n"));
        assert_eq!(before, Heat { throttled: Some(6), degrees: Some(96.5) });
        let hot = "throttled 4 times while measuring: the processor is too hot; hottest sensor 96 \u{b0}C";
        assert_eq!(after.words(&before).unwrap(), hot);
        let calm = "not throttled while measuring (10 times since the start); hottest sensor 96 \u{b0}C";
        assert_eq!(after.words(&after).unwrap(), calm);
        let nothing = Heat::of(&System::at(Path::new("/nowhere")));
        assert_eq!(nothing.words(&nothing), None);
    }
}
