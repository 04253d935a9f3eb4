use std::time::Duration;

use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::arm::{Here, Permission};
use super::core::Core;
use super::fault::{Fault, What};
use super::handle::Conditioner;
use super::latency::Latency;
use super::matcher::Matcher;
use super::plan::{Plan, Replay};
use super::rule::Rule;
use super::shared::{Cap, Recorder, Rules};

/// Makes a [`Conditioner`].
///
/// ```
/// use buttress::conditioner::{Conditioner, Fault, Rule};
/// let conditioner = Conditioner::builder("api")
///     .rule(Rule::new(Fault::status(503)).share(0.05))
///     .seed(7)
///     .max_share(0.1)
///     .allow_in(["test", "staging"])
///     .environment("staging")
///     .build()?;
/// conditioner.arm().unwrap();
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ConditionerBuilder {
    pub(super) name: Name,
    rules: Vec<Rule>,
    seed: u64,
    all: bool,
    max_share: f64,
    permission: Permission,
    opt_in: Option<Matcher>,
    record: Option<usize>,
    replay: Option<Plan>,
    pub(crate) observers: Observers,
    /// What `network` found.
    bad: Option<ConfigError>,
}

/// Rules have numbers in events and marks, and each call asks all of them.
const MAX_RULES: usize = 256;
const MAX_RECORD: usize = 10_000_000;

impl ConditionerBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            rules: Vec::new(),
            seed: 0,
            all: false,
            max_share: 1.0,
            permission: Permission::default(),
            opt_in: None,
            record: None,
            replay: None,
            observers: Observers::NONE,
            bad: None,
        }
    }

    /// Adds a rule. They are asked in the order in which they are added, up to 256.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api").rule(Rule::new(Fault::loss()).share(0.1)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds several rules.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let rules = [Fault::loss(), Fault::status(500)].map(|fault| Rule::new(fault).share(0.1));
    /// let conditioner = Conditioner::builder("api").rules(rules).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Adds the two rules of a bad network, to calls whose name or URL contains `name_filter`: `loss` of
    /// them are lost, the others come later by anything from `latency - jitter` to `latency + jitter`.
    ///
    /// ```
    /// use buttress::conditioner::Conditioner;
    /// use std::time::Duration;
    /// let ms = Duration::from_millis;
    /// let conditioner = Conditioner::builder("api").network(ms(50), ms(20), 0.01, Some("/checkout")).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn network(
        mut self,
        latency: Duration,
        jitter: Duration,
        loss: f64,
        name_filter: Option<&str>,
    ) -> Self {
        let matcher = name_filter.map_or_else(Matcher::everything, Matcher::name_or_url);
        if !(0.0..=1.0).contains(&loss) {
            self.bad = Some(ConfigError::new("loss", loss, "a share from 0 to 1"));
            return self;
        }
        match Latency::uniform(latency, jitter) {
            Ok(law) => {
                self.rules.push(Rule::new(Fault::loss()).share(loss).matching(matcher.clone()));
                let share = if latency.is_zero() && jitter.is_zero() { 0.0 } else { 1.0 };
                let late = Rule::new(Fault::latency(law)).share(share);
                self.rules.push(late.matching(matcher));
            }
            Err(error) => self.bad = Some(error),
        }
        self
    }

    /// Every rule that hits acts, instead of only the first. Then the order of the rules does not matter:
    /// a loss comes before all others and alone, then what else takes the place of the call, the first of
    /// these that hits and nothing but latencies with it. Latencies add up; of two faults of a body of one
    /// kind the stronger acts.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Latency, Rule};
    /// use std::time::Duration;
    /// let slow_and_unavailable = Conditioner::builder("api")
    ///     .rule(Rule::new(Fault::latency(Latency::fixed(Duration::from_secs(1))?)))
    ///     .rule(Rule::new(Fault::status(503)).share(0.5))
    ///     .match_all()
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn match_all(mut self) -> Self {
        self.all = true;
        self
    }

    /// Where the draws come from: another seed, other faults (default 0).
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api").rule(Rule::new(Fault::loss())).seed(4711).build()?;
    /// assert_eq!(conditioner.seed(), 4711);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// At most this share of the calls is touched, whatever the rules say: above 0 and at most 1 (default).
    /// On every stretch of traffic, touched ≤ share × calls + 10.
    ///
    /// Which calls it spares depends on the order in which they come, so a run in which it acts replays only
    /// by its [plan](Plan).
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let error = Conditioner::builder("api").rule(Rule::new(Fault::loss())).max_share(0.0).build();
    /// assert_eq!(error.unwrap_err().field(), "max_share");
    /// ```
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }

    /// Where it may be armed. Without it, anywhere.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner =
    ///     Conditioner::builder("api").rule(Rule::new(Fault::loss())).allow_in(["test"]).build()?;
    /// assert!(conditioner.arm().is_err(), "nothing says that this is a test");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn allow_in<T: Into<String>>(mut self, environments: impl IntoIterator<Item = T>) -> Self {
        self.permission.allowed = Some(environments.into_iter().map(Into::into).collect());
        self
    }

    /// Which environment this is.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api")
    ///     .rule(Rule::new(Fault::loss()))
    ///     .allow_in(["test"])
    ///     .environment("test")
    ///     .build()?;
    /// assert!(conditioner.arm().is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn environment(mut self, name: impl Into<String>) -> Self {
        self.permission.here = Here::Named(name.into());
        self
    }

    /// The environment variable that says which environment this is; read when it is armed.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api")
    ///     .rule(Rule::new(Fault::loss()))
    ///     .allow_in(["test", "staging"])
    ///     .environment_from("APP_ENV")
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn environment_from(mut self, variable: impl Into<String>) -> Self {
        self.permission.here = Here::Variable(variable.into());
        self
    }

    /// Only calls with this secret in this header are touched: test traffic that asks for it. See
    /// [`Matcher::token`].
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api")
    ///     .rule(Rule::new(Fault::status(503)))
    ///     .opt_in("x-fault-token", "correct horse battery staple")
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn opt_in(mut self, header: impl Into<String>, secret: impl Into<String>) -> Self {
        self.opt_in = Some(Matcher::token(header, secret));
        self
    }

    /// Keeps the first `decisions` faults for [`Conditioner::plan`]: 1 to 10,000,000. Costs a mutex for
    /// each fault.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api").rule(Rule::new(Fault::loss())).record(1000).build()?;
    /// assert_eq!(conditioner.plan().decisions().count(), 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn record(mut self, decisions: usize) -> Self {
        self.record = Some(decisions);
        self
    }

    /// Repeats recorded decisions instead of making new ones. Shares, seed and schedules of the rules are
    /// not looked at; their matchers are. Without rules every call is looked up, and calls without an id are
    /// counted whatever the recorded rules matched.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Plan};
    /// let again = Conditioner::builder("api").replay(Plan::default()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn replay(mut self, plan: Plan) -> Self {
        self.replay = Some(plan);
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api")
    ///     .rule(Rule::new(Fault::loss()))
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks the settings and makes the conditioner, disarmed.
    ///
    /// # Errors
    /// A [`ConfigError`] naming the first setting that is out of range; those of the rules as
    /// `rules[0].share`.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Matcher, Rule};
    /// let rule = Rule::new(Fault::loss()).matching(Matcher::path("checkout"));
    /// let error = Conditioner::builder("api").rule(rule).build().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "invalid rules[0].path: \"checkout\", expected a pattern that begins with `/`"
    /// );
    /// ```
    pub fn build(self) -> Result<Conditioner, ConfigError> {
        let (name, observers) = (self.name, self.observers.clone());
        Ok(Conditioner::from_parts(name, self.into_rules()?, observers))
    }

    pub(super) fn into_rules(mut self) -> Result<Rules, ConfigError> {
        if let Some(error) = self.bad {
            return Err(error);
        }
        self.check_rules()?;
        if !(self.max_share > 0.0 && self.max_share <= 1.0) {
            let expected = "a share above 0 and at most 1";
            return Err(ConfigError::new("max_share", self.max_share, expected));
        }
        if self.permission.allowed.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::new("allow_in", "[]", "at least one environment"));
        }
        if let Some(limit) = self.record
            && !(1..=MAX_RECORD).contains(&limit)
        {
            return Err(ConfigError::new("record", limit, "from 1 to 10000000"));
        }
        if let Some(token) = self.opt_in {
            token.check().map_err(|error| within("opt_in", &error))?;
            for rule in &mut self.rules {
                let matcher = std::mem::take(&mut rule.matcher);
                rule.matcher = Matcher::all([token.clone(), matcher]);
            }
        }
        #[expect(clippy::float_cmp, reason = "exactly 1 is no cap")]
        let cap = (self.max_share != 1.0).then(|| Cap::new(self.max_share));
        let recorder =
            self.record.map(|limit| Recorder { limit, plan: crate::sync::Mutex::default() });
        let core = Core::new(self.seed, self.rules, self.all);
        let replay = self.replay.as_ref().map(Replay::of);
        Ok(Rules::new(core, replay, self.permission, cap, recorder))
    }

    fn check_rules(&mut self) -> Result<(), ConfigError> {
        for (n, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|error| within(&format!("rules[{n}]"), &error))?;
        }
        if let Some(plan) = &self.replay {
            if self.rules.is_empty() {
                self.rules = stand_ins(plan);
                // All that was recorded did happen.
                self.all = true;
            } else if plan.rules() > self.rules.len() {
                let expected = format!("a plan of {} rules, as there are here", self.rules.len());
                return Err(ConfigError::new(
                    "replay",
                    format_args!("{} rules", plan.rules()),
                    expected,
                ));
            }
        } else if self.rules.is_empty() {
            return Err(ConfigError::new("rules", "[]", "at least one rule"));
        }
        if self.rules.len() > MAX_RULES {
            let expected = format!("at most {MAX_RULES} rules");
            return Err(ConfigError::new("rules", self.rules.len(), expected));
        }
        Ok(())
    }
}

/// The same error, said of a part.
fn within(part: &str, error: &ConfigError) -> ConfigError {
    let field = format!("{part}.{}", error.field());
    ConfigError::new(field, error.value(), error.expected().to_owned())
}

/// Rules that match everything, for the statistics of a plan that is replayed alone.
fn stand_ins(plan: &Plan) -> Vec<Rule> {
    (0..plan.rules())
        .map(|rule| {
            let known = plan.entries.iter().find(|entry| entry.rule as usize == rule);
            Rule::new(known.map_or(Fault(What::Loss), |entry| entry.act.stand_in())).share(0.0)
        })
        .collect()
}
