//! Retry objects of tasks, in a file.

use buttress::config::Loader;
use buttress::retry::RetryOverride;
use serde_json::Value;

/// What a task's own reader makes of an object is what an entry of `retries` makes of it; what it refuses is refused. Files
/// differ in three things: a whole number is written as one, no time is longer than 500 years, and null is as if it were not there.
#[test]
fn an_entry_of_retries_is_a_tasks_object() {
    let golden: Value =
        serde_json::from_str(include_str!("../../golden/per_task_retry.json")).unwrap();
    let (mut read, mut refused) = (0, 0);
    let cases = golden["cases"].as_array().unwrap().iter().map(|case| &case["task"]["retry"]);
    let more = golden["native_engine_validation"].as_array().unwrap();
    for retry in cases.chain(more.iter().map(|case| &case["retry"])) {
        if !retry.is_object() {
            continue;
        }
        let loader = Loader::empty().text(
            "task.json",
            buttress::config::Format::Json,
            serde_json::json!({"retries": {"task": retry}}).to_string(),
        );
        let ours = loader.load();
        match RetryOverride::from_json(retry) {
            Ok(_)
                if ["{\"transient\":2.0}", "{\"max_delay\":1e+300}"]
                    .contains(&&*retry.to_string()) =>
            {
                assert!(ours.is_err(), "{retry}");
            }
            Ok(task) => {
                read += 1;
                let policy = ours.unwrap_or_else(|error| panic!("{retry}: {error}"));
                assert_eq!(policy.retry_policy("task").unwrap(), task.to_policy(), "{retry}");
            }
            Err(_) if *retry == serde_json::json!({"base_delay": null}) => assert!(ours.is_ok()),
            Err(_) => {
                refused += 1;
                assert!(ours.is_err(), "{retry}");
            }
        }
    }
    assert_eq!((read, refused), (9, 8));
}
