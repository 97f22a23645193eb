//! Memory lent for the start of a container: what to request of it now. Pure.
//!
//! A loan begins with a request as high as the start-up need, which the scheduler keeps free for it. It is given back
//! in at most [`STEPS`] steps of the request, never below the working set plus a reserve and never below what the user
//! asked for: when the peak is measured to be past, at most twice, and at the verdict. Whatever happens, it ends at its
//! deadline. A container that ends and is started again is lent to again, unless it ends over and over.

pub mod airbag;
pub mod course;
pub mod need;

/// Requests are written in whole mebibytes, unless they are the user's own.
const MIB: u64 = 1 << 20;
/// Fewest patches are best: each is a write, a status and two Events of the kubelet.
pub const STEPS: u32 = 3;
/// Kept above the working set, as the next readings may be higher; and above the highest need measured.
const RESERVE: f64 = 1.05;
/// Kept above what earlier start-ups still took at this age.
const AHEAD: f64 = 1.1;
/// Share of the expected peak from which a peak counts as the one expected.
const OF_PEAK: f64 = 0.8;
/// For so long memory must stay low, and not grow, before its fall is believed, where no earlier start-up is known:
/// seconds, or this share of its age. What a garbage collector takes back while a program loads is no end of its spike.
const HOLD: (f64, f64) = (0.2, 0.1);
/// A step gives back at least this share of the spike, or is left out.
const WORTH: f64 = 1.0 / 8.0;
/// Ends of short runs after which nothing is lent any more.
const RESTARTS: u32 = 2;

/// Written at admission; bytes and seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    pub need: u64,
    pub steady: u64,
    /// From the start of the container; while it has not run, from the creation of its pod.
    pub deadline: f64,
    /// From the creation of a pod that finds no node.
    pub pending: f64,
}

/// How the container is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Its pod has no node; for this long.
    Pending {
        seconds: f64,
    },
    /// It has not run yet; its pod was created so long ago.
    Creating {
        seconds: f64,
    },
    Running {
        restarts: u32,
        age: f64,
        measured: Option<Measured>,
    },
    /// It ended and will be started again.
    Waiting {
        restarts: u32,
        ran: f64,
    },
    /// It holds nothing any more.
    Finished,
}

/// By the agent of its node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub working_set: u64,
    /// Of this run, so far.
    pub peak: u64,
    /// The verdict is there.
    pub settled: bool,
    pub earlier: Option<Earlier>,
}

/// What earlier start-ups of the same container did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Earlier {
    /// The lowest of their peaks.
    pub peak: u64,
    /// The most that it will still take, as they went on from where it is now.
    pub still: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Why {
    /// Lent again: it was started again.
    Restarted,
    PeakPassed,
    Settled,
    Deadline,
    /// No node has room for the loan.
    Pending,
    /// It ends over and over.
    CrashLoop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    pub request: u64,
    pub why: Why,
}

/// What is remembered of one container between two decisions. All of it may be lost: what is decided then is later, but
/// the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loan {
    /// Restarts before the run under way.
    run: Option<u32>,
    /// Steps given back in this run.
    steps: u32,
    /// Age at which memory was first seen to have fallen, and the lowest that it was since. Bytes.
    fell: Option<(f64, u64)>,
    over: bool,
}

impl Loan {
    /// Nothing is lent any more, and nothing more will be asked for until the container is started again.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What was asked for was not done: it is no step, and is asked for again.
    pub fn not_done(&mut self, why: Why) {
        self.steps = self.steps.saturating_sub(u32::from(why == Why::PeakPassed));
        self.over = false;
    }

    /// The request to ask for now. `None`: as it is.
    pub fn decide(&mut self, bounds: &Bounds, requested: u64, state: State) -> Option<Ask> {
        let asked = self.ask(bounds, requested, state);
        // The last word of each of these; what is lent after it is what the container uses.
        let last = match state {
            State::Finished => true,
            State::Pending { seconds } => seconds >= bounds.pending,
            State::Creating { seconds } => seconds >= bounds.deadline,
            State::Waiting { restarts, ran } => loops(bounds, restarts, ran),
            State::Running { age, measured, .. } => {
                age >= bounds.deadline || measured.is_some_and(|measured| measured.settled)
            }
        };
        self.over = (last || requested <= bounds.steady) && asked.is_none();
        asked
    }

    fn ask(&mut self, bounds: &Bounds, requested: u64, state: State) -> Option<Ask> {
        let down = |to: u64, why| (to < requested).then_some(Ask { request: to, why });
        let again = (requested < bounds.need).then_some(Ask { request: bounds.need, why: Why::Restarted });
        match state {
            State::Finished => None,
            State::Pending { seconds } if seconds >= bounds.pending => down(bounds.steady, Why::Pending),
            State::Creating { seconds } if seconds >= bounds.deadline => down(bounds.steady, Why::Deadline),
            State::Pending { .. } | State::Creating { .. } => None,
            State::Waiting { restarts, ran } if loops(bounds, restarts, ran) => {
                down(bounds.steady, Why::CrashLoop)
            }
            State::Waiting { restarts, .. } => {
                *self = Self { run: Some(restarts), ..Self::default() };
                again
            }
            State::Running { restarts, age, measured } => {
                let before = self.run.replace(restarts);
                if before.is_some_and(|before| before != restarts) {
                    *self = Self { run: Some(restarts), ..Self::default() };
                    // It was not seen to wait. Later than this, the peak may be past.
                    if restarts <= RESTARTS && age < bounds.deadline / 10.0 {
                        return again;
                    }
                }
                self.running(bounds, requested, age, measured)
            }
        }
    }

    fn running(
        &mut self,
        bounds: &Bounds,
        requested: u64,
        age: f64,
        measured: Option<Measured>,
    ) -> Option<Ask> {
        let floor = |measured: Measured| at_least(bounds, measured.working_set as f64 * RESERVE);
        let down = |to: u64, why| (to < requested).then_some(Ask { request: to, why });
        if age >= bounds.deadline {
            return down(measured.map_or(bounds.steady, floor), Why::Deadline);
        }
        let measured = measured?;
        if measured.settled {
            return down(floor(measured), Why::Settled);
        }
        self.fell = has_fallen(bounds, &measured).then(|| match self.fell {
            // What grows again has not come to rest: the next spike begins like this.
            Some((fell, lowest)) if measured.working_set as f64 <= lowest as f64 * RESERVE => {
                (fell, lowest.min(measured.working_set))
            }
            _ => (age, measured.working_set),
        });
        // The last step is the verdict's.
        let hold = if measured.earlier.is_some() { 0.0 } else { HOLD.0.max(age * HOLD.1) };
        if self.steps + 1 >= STEPS || self.fell.is_none_or(|(fell, _)| age - fell < hold) {
            return None;
        }
        let still = measured.earlier.map_or(0.0, |earlier| earlier.still as f64 * AHEAD);
        let target = floor(measured).max(at_least(bounds, still));
        let worth = bounds.need.saturating_sub(bounds.steady) as f64 * WORTH;
        let asked = down(target, Why::PeakPassed)
            .filter(|asked| requested.saturating_sub(asked.request) as f64 >= worth);
        self.steps += u32::from(asked.is_some());
        asked
    }
}

/// The steady request, or as much as this. As it will be read again: else it would be asked for over and over.
fn at_least(bounds: &Bounds, bytes: f64) -> u64 {
    let bytes = bytes.ceil() as u64;
    if bytes <= bounds.steady { bounds.steady } else { bytes.next_multiple_of(MIB) }
}

/// It had the peak that is expected of it, and is below the middle of its spike.
fn has_fallen(bounds: &Bounds, measured: &Measured) -> bool {
    let expected = measured.earlier.map_or(bounds.need, |earlier| earlier.peak);
    let spike = measured.peak.saturating_sub(bounds.steady);
    measured.peak as f64 >= expected as f64 * OF_PEAK && measured.working_set <= bounds.steady + spike / 2
}

fn loops(bounds: &Bounds, restarts: u32, ran: f64) -> bool {
    restarts >= RESTARTS && ran < bounds.deadline
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { need: 170 * MIB, steady: 64 * MIB, deadline: 120.0, pending: 60.0 };

    fn measured(working_set: u64, peak: u64) -> Measured {
        Measured { working_set: working_set * MIB, peak: peak * MIB, settled: false, earlier: None }
    }

    fn running(age: f64, measured: Measured) -> State {
        State::Running { restarts: 0, age, measured: Some(measured) }
    }

    /// Plays states one after the other, with every request granted.
    fn play(loan: &mut Loan, bounds: &Bounds, states: &[State]) -> Vec<(u64, Why)> {
        let mut requested = bounds.need;
        let mut asked = Vec::new();
        for state in states {
            if let Some(ask) = loan.decide(bounds, requested, *state) {
                requested = ask.request;
                asked.push((ask.request / MIB, ask.why));
            }
        }
        asked
    }

    #[test]
    fn the_spike_is_given_back_when_it_is_past_and_the_rest_at_the_verdict() {
        let verdict = Measured { settled: true, ..measured(60, 160) };
        let states = [
            State::Pending { seconds: 3.0 },
            State::Creating { seconds: 4.0 },
            running(0.5, measured(40, 40)),
            running(2.0, measured(155, 160)),
            running(3.0, measured(75, 160)),
            running(3.2, measured(75, 160)),
            running(3.5, measured(75, 160)),
            running(5.0, measured(60, 160)),
            running(19.0, verdict),
            running(20.0, verdict),
        ];
        let mut loan = Loan::default();
        assert_eq!(play(&mut loan, &BOUNDS, &states), [(79, Why::PeakPassed), (64, Why::PeakPassed)]);
        assert!(loan.is_over());
    }

    #[test]
    fn each_way_a_loan_ends() {
        let earlier = |peak, still| Some(Earlier { peak: peak * MIB, still: still * MIB });
        let low = measured(60, 160);
        for (name, state, expected) in [
            ("no room for a minute", State::Pending { seconds: 60.0 }, Some((64, Why::Pending))),
            ("no room yet", State::Pending { seconds: 59.0 }, None),
            ("an image that never comes", State::Creating { seconds: 120.0 }, Some((64, Why::Deadline))),
            (
                "never measured",
                State::Running { restarts: 0, age: 120.0, measured: None },
                Some((64, Why::Deadline)),
            ),
            ("not measured now", State::Running { restarts: 0, age: 60.0, measured: None }, None),
            ("too high at the deadline", running(120.0, measured(100, 160)), Some((105, Why::Deadline))),
            ("above its need at the deadline", running(120.0, measured(180, 180)), None),
            (
                "settled higher",
                running(19.0, Measured { settled: true, ..measured(80, 160) }),
                Some((84, Why::Settled)),
            ),
            ("fallen", running(3.0, low), Some((64, Why::PeakPassed))),
            ("a lower peak than expected", running(3.0, measured(60, 100)), None),
            (
                "lower, as earlier ones",
                running(3.0, Measured { earlier: earlier(100, 60), ..measured(60, 100) }),
                Some((66, Why::PeakPassed)),
            ),
            ("a second spike is to come", running(3.0, Measured { earlier: earlier(150, 155), ..low }), None),
            (
                "half of one is to come",
                running(3.0, Measured { earlier: earlier(150, 100), ..low }),
                Some((111, Why::PeakPassed)),
            ),
            ("waits after the first end", State::Waiting { restarts: 1, ran: 1.0 }, None),
            ("ends over and over", State::Waiting { restarts: 2, ran: 1.0 }, Some((64, Why::CrashLoop))),
            ("ended for the tenth time in weeks", State::Waiting { restarts: 9, ran: 86400.0 }, None),
            ("finished", State::Finished, None),
        ] {
            let mut loan = Loan { run: Some(0), fell: Some((0.0, u64::MAX)), ..Loan::default() };
            assert_eq!(play(&mut loan, &BOUNDS, &[state]).first().copied(), expected, "{name}");
        }
    }

    #[test]
    fn a_container_that_is_started_again_is_lent_to_again() {
        let mut loan = Loan { run: Some(0), ..Loan::default() };
        let again = Some(Ask { request: BOUNDS.need, why: Why::Restarted });
        let waiting = State::Waiting { restarts: 0, ran: 300.0 };
        assert_eq!(loan.decide(&BOUNDS, BOUNDS.steady, waiting), again);
        // Its end was not seen, only that it runs again.
        let mut loan = Loan { run: Some(0), ..Loan::default() };
        let unmeasured = |restarts| State::Running { restarts, age: 1.0, measured: None };
        assert_eq!(loan.decide(&BOUNDS, BOUNDS.steady, unmeasured(1)), again);
        // A lender that has just begun knows nothing of the run before.
        assert_eq!(Loan::default().decide(&BOUNDS, BOUNDS.steady, unmeasured(1)), None);
    }

    fn any_state() -> impl Strategy<Value = State> {
        let seconds = 0.0..300.0;
        let bytes = || 0..400 * MIB;
        let measured = (bytes(), bytes(), any::<bool>(), proptest::option::of((bytes(), bytes()))).prop_map(
            |(working_set, peak, settled, earlier)| Measured {
                working_set,
                peak: peak.max(working_set),
                settled,
                earlier: earlier.map(|(peak, still)| Earlier { peak, still }),
            },
        );
        prop_oneof![
            seconds.clone().prop_map(|seconds| State::Pending { seconds }),
            seconds.clone().prop_map(|seconds| State::Creating { seconds }),
            (0..5u32, seconds.clone()).prop_map(|(restarts, ran)| State::Waiting { restarts, ran }),
            (0..5u32, seconds, proptest::option::of(measured))
                .prop_map(|(restarts, age, measured)| State::Running { restarts, age, measured }),
            Just(State::Finished),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_no_request_is_out_of_bounds(states in proptest::collection::vec(any_state(), 1..60)) {
            let (mut loan, mut requested) = (Loan::default(), BOUNDS.need);
            let (mut run, mut steps) = (None, 0);
            for state in states {
                if let State::Running { restarts, .. } | State::Waiting { restarts, .. } = state
                    && run.replace(restarts) != Some(restarts) {
                    steps = 0;
                }
                if let Some(Ask { request, why }) = loan.decide(&BOUNDS, requested, state) {
                    prop_assert!((BOUNDS.steady..=BOUNDS.need).contains(&request), "{request}");
                    prop_assert_ne!(request, requested, "a patch that changes nothing");
                    prop_assert_eq!(request > requested, why == Why::Restarted);
                    if let State::Running { measured: Some(measured), .. } = state
                        && why != Why::Restarted {
                        prop_assert!(request as f64 >= measured.working_set as f64 * 1.05);
                    }
                    match why {
                        Why::Restarted => steps = 0,
                        Why::PeakPassed => steps += 1,
                        _ => {}
                    }
                    requested = request;
                    prop_assert!(request == BOUNDS.steady || request % MIB == 0, "{request} is written as more");
                    // What is lent again may be given back at once.
                    if why != Why::Restarted {
                        prop_assert_eq!(loan.decide(&BOUNDS, requested, state), None, "asked for twice");
                    }
                }
                prop_assert!(steps < STEPS, "{steps} steps before the verdict");
                // The deadline ends every loan, but for what the container uses.
                if let State::Running { age, measured, .. } = state
                    && age >= BOUNDS.deadline {
                    let used = measured.map_or(0.0, |measured| measured.working_set as f64 * 1.05);
                    prop_assert!(requested <= at_least(&BOUNDS, used));
                }
            }
        }
    }
}
