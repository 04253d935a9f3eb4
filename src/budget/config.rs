use super::core::{Balance, MAX_RETRIES, RETRY};
use super::terms::Terms;
use super::{Name, RetryBudget};
use crate::error::ConfigError;
use crate::managed::Home;

/// Builds a [`RetryBudget`]; every number has the default named there.
///
/// ```
/// use buttress::RetryBudget;
/// let budget = RetryBudget::builder("search")
///     .ratio(0.1)      // at most 10 % more load ...
///     .burst(20)       // ... beyond 20 retries saved up
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RetryBudgetBuilder {
    pub(super) name: Name,
    ratio: f64,
    burst: u32,
    floor: u32,
    tokens: u32,
    initial_tokens: u32,
    cost: u32,
    throttled_cost: u32,
    pub(crate) home: Home,
}

impl RetryBudgetBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            ratio: 0.2,
            burst: 10,
            floor: 3,
            tokens: 140,
            initial_tokens: 28,
            cost: 14,
            throttled_cost: 5,
            home: Home::Global,
        }
    }

    /// Retries that each first attempt pays for: from 0.000001 to 10, default 0.2. It bounds the extra
    /// load. Choose the share of extra load the backend can always take.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// assert_eq!(RetryBudget::builder("db").ratio(0.0).build().unwrap_err().field(), "ratio");
    /// ```
    pub fn ratio(mut self, retries_per_request: f64) -> Self {
        self.ratio = retries_per_request;
        self
    }

    /// Retries that can be saved up: 1 to 1,000,000, default 10. With little traffic it is what a bad
    /// minute can use; with much it only smooths.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// assert_eq!(RetryBudget::builder("db").burst(0).build().unwrap_err().field(), "burst");
    /// ```
    pub fn burst(mut self, retries: u32) -> Self {
        self.burst = retries;
        self
    }

    /// Retries saved up at the start: at most the burst, default 3. Keep it small: in a fleet every
    /// process has its own.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// assert_eq!(RetryBudget::builder("db").floor(11).build().unwrap_err().field(), "floor");
    /// ```
    pub fn floor(mut self, retries: u32) -> Self {
        self.floor = retries;
        self
    }

    /// The most tokens there can be: 1 to 1,000,000, default 140.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// assert_eq!(RetryBudget::builder("db").tokens(0).build().unwrap_err().field(), "tokens");
    /// ```
    pub fn tokens(mut self, tokens: u32) -> Self {
        self.tokens = tokens;
        self
    }

    /// Tokens at the start: at most `tokens`, default 28, which is two retries.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// let error = RetryBudget::builder("db").initial_tokens(141).build().unwrap_err();
    /// assert_eq!(error.field(), "initial_tokens");
    /// ```
    pub fn initial_tokens(mut self, tokens: u32) -> Self {
        self.initial_tokens = tokens;
        self
    }

    /// Tokens a retry costs unless it works: at most `tokens`, default 14. The higher, the lower the
    /// failure rate up to which everything is retried. 0 leaves only the credit.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// assert_eq!(RetryBudget::builder("db").cost(141).build().unwrap_err().field(), "cost");
    /// ```
    pub fn cost(mut self, tokens: u32) -> Self {
        self.cost = tokens;
        self
    }

    /// Tokens a retry costs after the callee asked for less: at most `tokens`, default 5.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// let error = RetryBudget::builder("db").throttled_cost(141).build().unwrap_err();
    /// assert_eq!(error.field(), "throttled_cost");
    /// ```
    pub fn throttled_cost(mut self, tokens: u32) -> Self {
        self.throttled_cost = tokens;
        self
    }

    /// The budget.
    ///
    /// # Errors
    /// If a number is out of the range its setter names.
    ///
    /// ```
    /// assert!(buttress::RetryBudget::builder("db").build().is_ok());
    /// ```
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        self.check()?;
        Ok(RetryBudget::from_builder(&self, false))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_ratio(self.ratio)?;
        check_retries("burst", self.burst)?;
        check_retries("tokens", self.tokens)?;
        if self.floor > self.burst {
            let expected = format!("at most the burst, {}", self.burst);
            return Err(ConfigError::new("floor", self.floor, expected));
        }
        for (field, value) in [
            ("initial_tokens", self.initial_tokens),
            ("cost", self.cost),
            ("throttled_cost", self.throttled_cost),
        ] {
            if value > self.tokens {
                let expected = format!("at most the tokens there can be, {}", self.tokens);
                return Err(ConfigError::new(field, value, expected));
            }
        }
        Ok(())
    }

    pub(super) fn start(&self) -> Balance {
        let credit = u64::from(self.floor) * RETRY;
        Balance { tokens: u64::from(self.initial_tokens), credit }
    }

    pub(super) fn terms(&self) -> Terms {
        Terms {
            full: self.full().pack(),
            deposit: deposit(self.ratio),
            price: u64::from(self.cost),
            throttled_price: u64::from(self.throttled_cost),
            start: self.start(),
        }
    }

    fn full(&self) -> Balance {
        Balance { tokens: u64::from(self.tokens), credit: u64::from(self.burst) * RETRY }
    }
}

pub(super) fn check_ratio(ratio: f64) -> Result<(), ConfigError> {
    if ratio.is_finite() && (1e-6..=10.0).contains(&ratio) {
        Ok(())
    } else {
        Err(ConfigError::new("ratio", ratio, "a number from 0.000001 to 10"))
    }
}

pub(super) fn check_retries(field: &'static str, value: u32) -> Result<(), ConfigError> {
    if (1..=MAX_RETRIES).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(field, value, "from 1 to 1000000"))
    }
}

/// Rounded down, so that the bound holds for the ratio as it was given. A hair is added first because
/// most decimals lie a hair below themselves in binary.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked"
)]
pub(super) fn deposit(ratio: f64) -> u64 {
    ((ratio * RETRY as f64 + 1e-6).floor() as u64).max(1)
}

#[expect(clippy::cast_precision_loss, reason = "credit has 40 bits")]
pub(super) fn in_retries(credit: u64) -> f64 {
    credit as f64 / RETRY as f64
}
