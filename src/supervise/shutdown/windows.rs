//! Console events. The system calls handlers on threads of their own; tokio's wake a small runtime on a
//! thread of ours, which does the rest.
//!
//! When a window is closed, the session or the system ends, the process is over as soon as the handler
//! returns, so tokio's does not.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::windows;
use tokio::sync::oneshot;

use super::super::beside::OwnRuntime;
use super::listener::Listener;
use super::shared::Shared;
use super::signals::{OnSignal, Signal};

/// The handlers of one shutdown. Dropping it takes them away.
pub(super) struct Installed {
    _stop: oneshot::Sender<()>,
}

type Next = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<()>> + Send>;

struct Source {
    signal: Signal,
    does: OnSignal,
    count: u32,
    next: Vec<Next>,
}

pub(super) fn install(shared: &Arc<Shared>) -> io::Result<Installed> {
    let mut sources = Vec::new();
    for (signal, does) in shared.signals.iter() {
        sources.push(Source { signal, does, count: 0, next: events(signal)? });
    }
    let runtime = OwnRuntime::new(Builder::new_current_thread().enable_time().build()?);
    let (stop, stopped) = oneshot::channel();
    let listener = Listener::new(Arc::clone(shared));
    thread::Builder::new()
        .name("buttress-signals".into())
        .spawn(move || runtime.block_on(listen(listener, sources, stopped)))?;
    Ok(Installed { _stop: stop })
}

/// The events that stand for a signal.
fn events(signal: Signal) -> io::Result<Vec<Next>> {
    macro_rules! next {
        ($($event:ident),*) => {
            vec![$({
                let mut event = windows::$event()?;
                Box::new(move |cx: &mut Context<'_>| event.poll_recv(cx)) as Next
            }),*]
        };
    }
    Ok(match signal {
        Signal::INT => next![ctrl_c],
        Signal::QUIT => next![ctrl_break],
        Signal::HUP => next![ctrl_close],
        // The settings allow no others.
        _ => next![ctrl_shutdown, ctrl_logoff],
    })
}

async fn listen(
    mut listener: Listener,
    mut sources: Vec<Source>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let left = listener.left();
        let deadline = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => pending().await,
            }
        };
        let event = poll_fn(|cx| {
            let came = |source: &mut Source| source.next.iter_mut().any(|next| next(cx).is_ready());
            sources.iter_mut().position(came).map_or(Poll::Pending, Poll::Ready)
        });
        let number = tokio::select! {
            _ = &mut stopped => return,
            () = deadline => listener.end(),
            number = event => number,
        };
        let source = &mut sources[number];
        source.count = source.count.saturating_add(1);
        listener.came(source.signal, source.does, source.count);
    }
}
