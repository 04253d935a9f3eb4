use std::num::NonZeroU32;
use std::time::Duration;

use super::RetryPolicy;
use super::config::class_index;
use crate::backoff::{Backoff, Jitter};
use crate::outcome::FailureClass;
use crate::replay::RetryOverride;

impl RetryOverride {
    /// Changes nothing.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// assert_eq!(RetryOverride::new().apply(RetryPolicy::DEFAULT), RetryPolicy::DEFAULT);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This request is not retried.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// assert!(!RetryOverride::never().apply(RetryPolicy::DEFAULT).can_retry());
    /// ```
    #[must_use]
    pub fn never() -> Self {
        Self { never: true, ..Self::default() }
    }

    /// Attempts in all, the first included.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// use std::num::NonZeroU32;
    /// let five = RetryOverride::new().max_attempts(NonZeroU32::new(5).unwrap());
    /// assert_eq!(five.apply(RetryPolicy::DEFAULT).max_attempts(), Some(5));
    /// ```
    #[must_use]
    pub fn max_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Retries of one class of failure. Classes that are not named and have no limit in the policy get
    /// those of [`RetryPolicy::adaptive`].
    ///
    /// ```
    /// use buttress::{FailureClass, retry::{RetryOverride, RetryPolicy}};
    /// let o = RetryOverride::new().class_budget(FailureClass::Transient, 1);
    /// assert_eq!(o.apply(RetryPolicy::DEFAULT).class_budget(FailureClass::Flaky), Some(2));
    /// ```
    #[must_use]
    pub fn class_budget(mut self, class: FailureClass, retries: u32) -> Self {
        // The largest count stands for "no limit", which no request may ask for.
        self.classes[class_index(class)] = Some(retries.min(u32::MAX - 1));
        self
    }

    /// The first delay.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// use std::time::Duration;
    /// let policy = RetryOverride::new().base_delay(Duration::from_secs(1)).apply(RetryPolicy::DEFAULT);
    /// assert_eq!(policy.backoff().range(1).1, Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.base = Some(delay);
        self
    }

    /// The longest delay.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// use std::time::Duration;
    /// let policy = RetryOverride::new().max_delay(Duration::from_secs(1)).apply(RetryPolicy::DEFAULT);
    /// assert_eq!(policy.backoff().range(90).1, Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.cap = Some(delay);
        self
    }

    /// Whether this request may be repeated even if it may have taken effect.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// assert!(RetryOverride::new().retry_unsafe(true).apply(RetryPolicy::DEFAULT).retries_unsafe());
    /// ```
    #[must_use]
    pub fn retry_unsafe(mut self, yes: bool) -> Self {
        self.retry_unsafe = Some(yes);
        self
    }

    /// The policy for this request.
    ///
    /// ```
    /// use buttress::retry::{RetryOverride, RetryPolicy};
    /// assert_eq!(RetryOverride::new().apply(RetryPolicy::NO_RETRY), RetryPolicy::NO_RETRY);
    /// ```
    #[must_use]
    pub fn apply(self, policy: RetryPolicy) -> RetryPolicy {
        let mut policy = policy;
        if self.never {
            return policy.failing_immediately();
        }
        if self.classes.iter().any(Option::is_some) {
            let adaptive = RetryPolicy::adaptive();
            for class in FailureClass::ALL {
                let named = self.classes[class_index(class)];
                if let Some(most) = named.or_else(|| {
                    let lacks = policy.class_budget(class).is_none();
                    adaptive.class_budget(class).filter(|_| lacks)
                }) {
                    policy.set_class(class, most);
                }
            }
            policy = policy.attempts(u32::MAX);
        }
        if let Some(attempts) = self.max_attempts {
            policy = policy.attempts(attempts.get().min(u32::MAX - 1));
        }
        if let Some(yes) = self.retry_unsafe {
            policy.set_retry_unsafe(yes);
        }
        let (base, mut cap, factor, jitter) = policy.backoff.parts();
        if base == cap
            && factor <= 1.0
            && (self.base.is_some() || self.factor.is_some() || self.jitter.is_some())
        {
            // A constant backoff, or none: what caps it is not meant as a limit for others.
            cap = cap.max(RetryPolicy::adaptive().backoff.parts().1).max(self.base.unwrap_or(base));
        }
        let jitter = match self.jitter {
            None => jitter,
            Some(share) if share > 0.0 => Jitter::Proportional(share),
            Some(_) => Jitter::None,
        };
        policy.backoff = Backoff::unchecked(
            self.base.unwrap_or(base),
            self.cap.unwrap_or(cap),
            self.factor.unwrap_or(factor),
            jitter,
        );
        policy
    }
}

#[cfg(feature = "serde")]
mod json {
    use serde_json::Value;

    use super::{Duration, FailureClass, RetryOverride, RetryPolicy, class_index};
    use crate::error::ConfigError;

    impl RetryOverride {
        /// Reads an object with any of the keys `transient`, `flaky`, `permanent` (retries per class, whole
        /// numbers), `base_delay`, `max_delay` (seconds), `backoff_factor` and `jitter` (the share of a delay
        /// that may be added). All are finite numbers, at least 0. A delay beyond 584 years counts as that.
        ///
        /// # Errors
        /// For anything that is not an object, an unknown key (it would be ignored otherwise, and a
        /// misspelt one is worse than an error), and a value that is not such a number, which includes
        /// numbers in quotes, `true` and `null`. The error names the key, as `retry.transient`.
        ///
        /// ```
        /// use buttress::{FailureClass, retry::{RetryOverride, RetryPolicy}};
        /// use serde_json::json;
        /// let o = RetryOverride::from_json(&json!({"transient": 3, "flaky": 1, "base_delay": 0.2}))?;
        /// let policy = o.apply(RetryPolicy::adaptive());
        /// assert_eq!(policy.class_budget(FailureClass::Transient), Some(3));
        ///
        /// let error = RetryOverride::from_json(&json!({"transient": -1})).unwrap_err();
        /// assert_eq!(
        ///     error.to_string(),
        ///     "invalid retry.transient: -1, expected a finite number, at least 0"
        /// );
        /// # Ok::<(), buttress::ConfigError>(())
        /// ```
        pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
            let Value::Object(map) = value else {
                return Err(ConfigError::new("retry", value, "an object"));
            };
            let mut new = Self::new();
            for (key, value) in map {
                match key.as_str() {
                    "transient" => new.read_class(FailureClass::Transient, key, value)?,
                    "flaky" => new.read_class(FailureClass::Flaky, key, value)?,
                    "permanent" => new.read_class(FailureClass::Permanent, key, value)?,
                    "base_delay" => new.base = Some(delay(number(key, value)?)),
                    "max_delay" => new.cap = Some(delay(number(key, value)?)),
                    "backoff_factor" => new.factor = Some(number(key, value)?),
                    "jitter" => new.jitter = Some(number(key, value)?),
                    _ => {
                        let expected = "one of the keys transient, flaky, permanent, base_delay, \
                                        max_delay, backoff_factor, jitter";
                        return Err(ConfigError::new("retry", format_args!("{key:?}"), expected));
                    }
                }
            }
            Ok(new)
        }

        /// Reads the `"retry"` object of a task; `None` if it has none, or `null`.
        ///
        /// # Errors
        /// As [`from_json`](Self::from_json).
        ///
        /// ```
        /// use buttress::retry::RetryOverride;
        /// use serde_json::json;
        /// let task = json!({"method": "post", "request_url": "/x", "retry": {"transient": 3}});
        /// assert!(RetryOverride::from_task(&task)?.is_some());
        /// assert!(RetryOverride::from_task(&json!({"method": "get"}))?.is_none());
        /// # Ok::<(), buttress::ConfigError>(())
        /// ```
        pub fn from_task(task: &Value) -> Result<Option<Self>, ConfigError> {
            match task.get("retry") {
                None | Some(Value::Null) => Ok(None),
                Some(value) => Self::from_json(value).map(Some),
            }
        }

        /// A whole policy from such an object: [`RetryPolicy::adaptive`] with these changes.
        ///
        /// ```
        /// use buttress::retry::{RetryOverride, RetryPolicy};
        /// use serde_json::json;
        /// let policy = RetryOverride::from_json(&json!({}))?.to_policy();
        /// assert_eq!(policy, RetryPolicy::adaptive());
        /// # Ok::<(), buttress::ConfigError>(())
        /// ```
        #[must_use]
        pub fn to_policy(self) -> RetryPolicy {
            self.apply(RetryPolicy::adaptive())
        }

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::float_cmp,
            reason = "a whole number in range, or it is refused"
        )]
        fn read_class(
            &mut self,
            class: FailureClass,
            key: &str,
            value: &Value,
        ) -> Result<(), ConfigError> {
            let retries = number(key, value)?;
            if retries.trunc() != retries || retries >= f64::from(u32::MAX) {
                let expected = "a whole number below 4294967295";
                return Err(ConfigError::new(format!("retry.{key}"), value, expected));
            }
            self.classes[class_index(class)] = Some(retries as u32);
            Ok(())
        }
    }

    impl TryFrom<Value> for RetryOverride {
        type Error = ConfigError;

        fn try_from(value: Value) -> Result<Self, ConfigError> {
            Self::from_json(&value)
        }
    }

    fn number(key: &str, value: &Value) -> Result<f64, ConfigError> {
        match value {
            Value::Number(n) => n.as_f64().filter(|n| n.is_finite() && *n >= 0.0),
            _ => None,
        }
        .ok_or_else(|| {
            ConfigError::new(format!("retry.{key}"), value, "a finite number, at least 0")
        })
    }

    fn delay(seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}
