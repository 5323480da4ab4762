//! Beam search: several answers grow side by side, and the one with the best mean of its tokens' logarithms
//! of probability is taken. Scores, the order of ties and the end are those of `generate` in Hugging Face
//! transformers 5, in double precision. Beams are sequences of one batch, so none changes another's bits. It
//! must not know text.

use std::sync::Arc;

use crate::api::{BeamParams, StopReason};
use crate::error::{EngineError, Result};
use crate::forward::batch::{Ended, Phase};
use crate::plan::SequenceOptions;
use crate::runtime::cancel::Cancel;
use crate::sequence::session::{Sequence, Step, advance};

/// What a search is for.
pub(super) struct Search<'a> {
    pub params: BeamParams,
    /// Tokens of the prompt that count as tokens of the answer: all but the one that every text begins with.
    pub given: usize,
    /// The most tokens of an answer.
    pub most: usize,
    /// Tokens that end an answer.
    pub ends: &'a [u32],
}

/// An answer, and the sum of the logarithms of its tokens' probabilities.
#[derive(Debug, Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    score: f64,
}

/// A token that a beam could go on with.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    score: f64,
    beam: usize,
    token: u32,
}

impl Search<'_> {
    /// The best answer to the prompt that `first` has read. A search that is cancelled gives the best answer
    /// so far.
    ///
    /// # Errors
    /// [`EngineError::Memory`] for more sequences than fit; failed reads; logits that are no numbers.
    pub fn run(&self, first: &mut Sequence, cancel: &Cancel) -> Result<(Vec<u32>, StopReason)> {
        let mut others = self.others(first)?;
        let mut sequences: Vec<&mut Sequence> = std::iter::once(first).chain(&mut others).collect();
        let mut running = vec![Beam::default()];
        let mut finished: Vec<Beam> = Vec::new();
        loop {
            let candidates = self.candidates(&running, &sequences)?;
            let length = running.first().map_or(0, |beam| beam.ids.len()) + 1;
            let last = length == self.most;
            let (ended, open) = self.apart(&running, candidates, last);
            self.keep(&mut finished, ended, length);
            let hopeless = self.cannot_improve(&finished, &open, length);
            let full = self.params.early && finished.len() == self.params.beams;
            if last || full || hopeless {
                return Ok(self.best(finished));
            }
            match step(&mut sequences, &open, cancel) {
                Err(EngineError::Cancelled) => {
                    let so_far = finished.into_iter().chain(running).next().unwrap_or_default();
                    return Ok((so_far.ids, StopReason::Cancelled));
                }
                other => other?,
            }
            running = open.iter().map(|candidate| grown(&running, candidate)).collect();
        }
    }

    /// Sequences for the other beams, with room for the answer alone.
    fn others(&self, first: &Sequence) -> Result<Vec<Sequence>> {
        let tokens = first.text().len().max(first.tokens().len() + self.most);
        let options = SequenceOptions { context: Some(tokens.min(first.context())), kv: first.kv_format() };
        let sequence = |_| Sequence::new(Arc::clone(first.model()), options);
        (1..self.params.beams).map(sequence).collect()
    }

    /// The best tokens to go on with, over all beams: enough that as many as there are beams do not end.
    fn candidates(&self, running: &[Beam], sequences: &[&mut Sequence]) -> Result<Vec<Candidate>> {
        let most = self.params.beams * (1 + self.ends.len()).max(2);
        let mut best: Vec<Candidate> = Vec::with_capacity(most + 1);
        for (beam, (from, sequence)) in running.iter().zip(sequences).enumerate() {
            let logits = sequence.logits();
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
            if !sum.is_finite() {
                return Err(EngineError::NotANumber { tokens: sequence.tokens().len() });
            }
            let base = from.score - sum.ln() - f64::from(highest);
            for (token, &logit) in (0..).zip(logits) {
                let score = base + f64::from(logit);
                if best.len() == most && best.last().is_some_and(|worst| score <= worst.score) {
                    continue;
                }
                // Of equals the first stays ahead.
                let at = best.partition_point(|other| other.score >= score);
                best.insert(at, Candidate { score, beam, token });
                best.truncate(most);
            }
        }
        Ok(best)
    }

    /// Answers that end with a candidate that is among the best, and the candidates to go on with.
    fn apart(&self, running: &[Beam], candidates: Vec<Candidate>, last: bool) -> (Vec<Beam>, Vec<Candidate>) {
        let ends = |candidate: &Candidate| last || self.ends.contains(&candidate.token);
        let among_best = candidates.iter().take(self.params.beams).filter(|candidate| ends(candidate));
        let ended = among_best.map(|candidate| grown(running, candidate)).collect();
        let open = candidates.iter().filter(|candidate| !ends(candidate)).take(self.params.beams);
        (ended, open.copied().collect())
    }

    /// Keeps the best finished answers, best first, with their scores by length.
    fn keep(&self, finished: &mut Vec<Beam>, ended: Vec<Beam>, length: usize) {
        for beam in ended {
            let score = self.by_length(beam.score, length);
            let at = finished.partition_point(|other| other.score >= score);
            finished.insert(at, Beam { score, ..beam });
        }
        finished.truncate(self.params.beams);
    }

    /// Whether no open answer is better, as it is now, than the worst of those that are kept.
    fn cannot_improve(&self, finished: &[Beam], open: &[Candidate], length: usize) -> bool {
        let worst = finished.get(self.params.beams - 1).map(|beam| beam.score);
        let best = open.first().map(|candidate| self.by_length(candidate.score, length));
        matches!((best, worst), (Some(best), Some(worst)) if best <= worst)
    }

    fn by_length(&self, score: f64, length: usize) -> f64 {
        score / ((length + self.given) as f64).powf(f64::from(self.params.length_penalty))
    }

    /// The best of the finished answers, and why it ended.
    fn best(&self, finished: Vec<Beam>) -> (Vec<u32>, StopReason) {
        let ids = finished.into_iter().next().unwrap_or_default().ids;
        let ended = ids.last().is_some_and(|id| self.ends.contains(id));
        (ids, if ended { StopReason::EndOfTurn } else { StopReason::MaxTokens })
    }
}

/// Makes each sequence that of its candidate's beam, and appends the token.
fn step(sequences: &mut [&mut Sequence], open: &[Candidate], cancel: &Cancel) -> Result<()> {
    arrange(sequences, open)?;
    let tokens: Vec<[u32; 1]> = open.iter().map(|candidate| [candidate.token]).collect();
    let mut steps: Vec<Step<'_>> = (sequences.iter_mut().zip(&tokens))
        .map(|(sequence, tokens)| Step { sequence, tokens, phase: Phase::Decode, cancel })
        .collect();
    let ended = advance(&mut steps, &mut ())?;
    match ended.contains(&Ended::Cancelled) {
        true => Err(EngineError::Cancelled),
        false => Ok(()),
    }
}

/// A beam with one more token.
fn grown(running: &[Beam], candidate: &Candidate) -> Beam {
    let mut ids = running[candidate.beam].ids.clone();
    ids.push(candidate.token);
    Beam { ids, score: candidate.score }
}

/// Orders sequences by the candidates that they go on with. The first candidate of a beam takes its sequence;
/// others copy it into one that no candidate goes on with.
fn arrange(sequences: &mut [&mut Sequence], open: &[Candidate]) -> Result<()> {
    let mut taken = vec![false; sequences.len()];
    let mut places = vec![None; open.len()];
    for (candidate, place) in open.iter().zip(&mut places) {
        if !taken[candidate.beam] {
            taken[candidate.beam] = true;
            *place = Some(candidate.beam);
        }
    }
    let mut free = (0..sequences.len()).filter(|&at| !taken[at]).collect::<Vec<_>>().into_iter();
    for (candidate, place) in open.iter().zip(&mut places) {
        if place.is_none() {
            let at = free.next().expect("there are as many sequences as candidates");
            let [to, from] = pair(sequences, at, candidate.beam);
            to.follow(from)?;
            *place = Some(at);
        }
    }
    let order: Vec<usize> = places.into_iter().flatten().collect();
    reorder(sequences, &order);
    Ok(())
}

/// Two different elements.
fn pair<T>(all: &mut [T], a: usize, b: usize) -> [&mut T; 2] {
    all.get_disjoint_mut([a, b]).expect("they are different and there")
}

/// Puts the element `order[i]` at place `i`; elements that are not named come behind.
fn reorder<T>(all: &mut [T], order: &[usize]) {
    let mut at: Vec<usize> = (0..all.len()).collect();
    for (place, &wanted) in order.iter().enumerate() {
        let found = at.iter().position(|&original| original == wanted).expect("each is named once");
        all.swap(place, found);
        at.swap(place, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_where_they_are_wanted() {
        let mut all = ['a', 'b', 'c', 'd'];
        reorder(&mut all, &[2, 0, 3]);
        assert_eq!(all, ['c', 'a', 'd', 'b']);
        reorder(&mut all, &[0, 1]);
        assert_eq!(all, ['c', 'a', 'd', 'b']);
    }

    #[test]
    fn finished_answers_are_kept_by_their_mean() {
        let params = BeamParams { beams: 2, length_penalty: 1.0, early: false };
        let search = Search { params, given: 1, most: 9, ends: &[2] };
        let beam = |id, score| Beam { ids: vec![id], score };
        let mut finished = Vec::new();
        search.keep(&mut finished, vec![beam(5, -4.0)], 1);
        search.keep(&mut finished, vec![beam(6, -3.0), beam(7, -9.0)], 2);
        let kept: Vec<(u32, f64)> = finished.iter().map(|beam| (beam.ids[0], beam.score)).collect();
        assert_eq!(kept, [(6, -1.0), (5, -2.0)]);
        let open = |score| [Candidate { score, beam: 0, token: 3 }];
        assert!(search.cannot_improve(&finished, &open(-8.0), 3));
        assert!(!search.cannot_improve(&finished, &open(-7.0), 3));
        assert!(!search.cannot_improve(&finished[..1], &open(-70.0), 3), "there is room for another");
    }
}
