//! reqwest's client as the service that it is, without an adapter.

use buttress::presets::{ClientPlan, client};
use buttress::{BoxError, FailureClass, RetryHint, Verdict, classify_fn};
use tower::{Layer, ServiceExt};

use super::server::Server;
use super::{is_empty, ms};

fn judge(result: Result<&reqwest::Response, &BoxError>) -> Verdict {
    match result {
        Ok(answer) if answer.status().is_server_error() => {
            Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Safe { after: None })
        }
        Ok(_) => Verdict::success(),
        Err(error) => buttress::judge_error(&**error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_answers_of_its_own_kind() {
    let server = Server::start();
    let reqwest = reqwest::Client::builder().retry(reqwest::retry::never()).no_proxy();
    let reqwest = reqwest.build().unwrap();
    let mut plan = ClientPlan::new("reqwest");
    plan.total_timeout = Some(ms(10_000));
    let stack = client(&plan).unwrap();
    let stack = stack.replay(reqwest::Request::try_clone).classify(classify_fn(judge));
    let service = stack.layer(reqwest.clone().map_err(BoxError::from));
    let request = reqwest.get(server.url("/broken/2")).build().unwrap();
    let call = tokio::spawn(service.clone().oneshot(request));
    assert_eq!(call.await.unwrap().unwrap().text().await.unwrap(), "hello");
    assert_eq!(server.seen.requests(), 3);
    let request = reqwest.post(server.url("/echo")).body("as it was").build().unwrap();
    let answer = service.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "as it was");
    is_empty(stack.backend().unwrap());
}
