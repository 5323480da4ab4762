//! Replay of a routing trace over two tiers: a cache in RAM beside a device with memory of its own, as the
//! store has them. It is pure. It must not know files or terminals.

use std::cmp::Reverse;

use super::replay::{BankEvent, events_by_bank};
use super::trace::Trace;
use crate::experts::policy::{Policy, Ranking};
use crate::experts::tier::{DeviceBank, DeviceWork};

/// What became of the experts that decoded tokens used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierUses {
    /// All of them.
    pub uses: u64,
    /// Those that the device had.
    pub in_vram: u64,
    /// Those that were in RAM.
    pub in_ram: u64,
    /// Bytes of the others, which were read.
    pub bytes_read: u64,
    /// Experts that were copied to the device.
    pub uploads: u64,
}

/// Replays the banks of a trace with these numbers of slots, `[bank]`. The first `skip` events of one token
/// only fill both tiers; their uses do not count.
pub fn run(trace: &Trace, ram: &[u32], vram: &[u32], skip: u64) -> TierUses {
    let mut all = TierUses::default();
    let banks = events_by_bank(trace).into_iter().zip(&trace.header().banks).zip(ram.iter().zip(vram));
    for ((events, bank), (&ram, &vram)) in banks {
        let uses = Tiers::new(bank.experts as usize, ram as usize, vram as usize).run(&events, skip);
        all.uses += uses.uses;
        all.in_vram += uses.in_vram;
        all.in_ram += uses.in_ram;
        let missed = uses.uses - uses.in_vram - uses.in_ram;
        all.bytes_read = all.bytes_read.saturating_add(missed.saturating_mul(bank.expert_bytes));
        all.uploads += uses.uploads;
    }
    all
}

/// Both tiers of one bank.
struct Tiers {
    device: DeviceBank,
    ranking: Ranking,
    quota: usize,
    resident: Vec<bool>,
    elsewhere: Vec<bool>,
}

impl Tiers {
    fn new(experts: usize, quota: usize, slots: usize) -> Self {
        Self {
            device: DeviceBank::new(experts, slots),
            ranking: Ranking::new(Policy::default(), experts),
            quota,
            resident: vec![false; experts],
            elsewhere: vec![false; experts],
        }
    }

    /// The uses of the events of one token after the first `skip`; no bytes.
    fn run(mut self, events: &[BankEvent], skip: u64) -> TierUses {
        let (mut all, mut decoded, mut work) = (TierUses::default(), 0, DeviceWork::default());
        for event in events {
            if event.tokens > 1 {
                self.device.used(event.uses.iter().copied());
                self.in_ram(&event.uses);
                continue;
            }
            let ids: Vec<u32> = event.uses.iter().map(|&(id, _)| id).collect();
            self.device.request(&ids, &mut work);
            let hit = |index: usize| work.hits.iter().any(|hit| hit.index == index);
            let uses = event.uses.iter().enumerate();
            let host: Vec<(u32, u32)> =
                uses.filter(|&(index, _)| !hit(index)).map(|(_, &uses)| uses).collect();
            let hits = self.in_ram(&host);
            for upload in &work.uploads {
                self.device.moved(upload);
                self.resident[upload.expert as usize] = false;
                self.elsewhere[upload.expert as usize] = true;
                if let Some(evicted) = upload.evicts {
                    self.elsewhere[evicted as usize] = false;
                }
            }
            decoded += 1;
            if decoded > skip {
                all.uses += ids.len() as u64;
                all.in_vram += work.hits.len() as u64;
                all.in_ram += hits;
                all.uploads += work.uploads.len() as u64;
            }
        }
        all
    }

    /// A request to the cache in RAM. Returns its hits.
    fn in_ram(&mut self, uses: &[(u32, u32)]) -> u64 {
        self.ranking.used(uses.iter().copied());
        let hits = uses.iter().filter(|&&(id, _)| self.resident[id as usize]).count() as u64;
        uses.iter().for_each(|&(id, _)| self.resident[id as usize] = true);
        let here = |&id: &u32| self.resident[id as usize] && !self.elsewhere[id as usize];
        let mut order: Vec<u32> = (0..self.resident.len() as u32).filter(here).collect();
        order.sort_unstable_by_key(|&id| Reverse(self.ranking.value(id)));
        self.resident.fill(false);
        order.into_iter().take(self.quota).for_each(|id| self.resident[id as usize] = true);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::replay::Replacement;

    /// Tokens of two experts each, some more popular than others, after a chunk.
    fn trace() -> Trace {
        let mut random = 5_u64;
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let chunk = vec![vec![0, 1], vec![1, 5], vec![0, 1]];
        let token = |_| vec![vec![(draw(16) * draw(16) / 32) as u16, 8 + draw(8) as u16]];
        Trace::of_bank(16, &std::iter::once(chunk).chain((0..400).map(token)).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_device_it_is_the_replay_of_the_cache() {
        let trace = trace();
        let replay = crate::offline::replay::Replay::run(&trace, Replacement::Policy(Policy::Aged), 20);
        for slots in [0, 1, 3, 8, 16] {
            let uses = run(&trace, &[slots], &[0], 20);
            let decode = replay.with_slots(&[slots]).decode;
            assert_eq!(
                (uses.uses, uses.in_ram, uses.bytes_read),
                (decode.uses, decode.hits, decode.bytes_read)
            );
            assert_eq!((uses.in_vram, uses.uploads), (0, 0));
        }
    }

    #[test]
    fn both_tiers_together_hold_more_than_one() {
        let trace = trace();
        let missed = |ram, vram| {
            let uses = run(&trace, &[ram], &[vram], 20);
            uses.uses - uses.in_ram - uses.in_vram
        };
        assert!(missed(4, 4) < missed(4, 0) && missed(4, 12) < missed(4, 4));
        // As good as a cache of their size, but for experts that wait for their second use.
        assert!(missed(4, 4) < missed(6, 0), "{} {}", missed(4, 4), missed(6, 0));
        assert_eq!(run(&trace, &[0], &[16], 100).uses, 600);
        assert!(run(&trace, &[0], &[16], 100).in_vram > 580, "all of them come to be there");
    }
}
