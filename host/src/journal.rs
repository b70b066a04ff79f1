//! Where the daemon and its sidecars log, the same for all three.
//!
//! A message is constant and its subject is in fields. The journal gets both: `F_NAMESPACE=shop` to filter by, and a `MESSAGE` that
//! ends with `namespace=shop`, because `journalctl` prints nothing else.

use std::fmt::{Debug, Write};
use tracing::field::{Field, Value, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// To the journal when it listens to us, else to standard error; what is said is chosen by `PLOYZ_LOG`, or by `default`.
/// Called once, at the start.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_env("PLOYZ_LOG").unwrap_or_else(|_| default.into());
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let registry = tracing_subscriber::registry().with(filter);
    match journal {
        Some(layer) => registry.with(Readable(layer)).init(),
        None => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false))
            .init(),
    }
}

/// Passes events on with their fields repeated at the end of the message.
struct Readable<L>(L);

impl<S, L> Layer<S> for Readable<L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    L: Layer<S>,
{
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut texts = Texts(vec![None; event.metadata().fields().len()]);
        event.record(&mut texts);
        let names = event.metadata().fields();
        if let Some(at) = names.iter().position(|field| field.name() == MESSAGE)
            && let Some(message) = texts.0.get_mut(at).and_then(Option::take)
        {
            let whole = names.iter().zip(&texts.0).fold(message, |mut whole, (field, text)| {
                if let Some(text) = text {
                    let _ = write!(whole, " {}={text}", field.name());
                }
                whole
            });
            if let Some(slot) = texts.0.get_mut(at) {
                *slot = Some(whole);
            }
        }
        let values: Vec<Option<&dyn Value>> =
            texts.0.iter().map(|text| text.as_ref().map(|text| text as &dyn Value)).collect();
        let values = names.value_set_all(&values);
        self.0.on_event(&Event::new(event.metadata(), &values), ctx);
    }
}

/// The values of an event as text, by the place of their field.
struct Texts(Vec<Option<String>>);

impl Texts {
    fn put(&mut self, field: &Field, text: String) {
        if let Some(slot) = self.0.get_mut(field.index()) {
            *slot = Some(text);
        }
    }
}

impl Visit for Texts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }
}

const MESSAGE: &str = "message";

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Seen = Arc<Mutex<Vec<(String, String)>>>;

    struct Recorder(Seen);

    impl<S: Subscriber> Layer<S> for Recorder {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let names = event.metadata().fields();
            let mut texts = Texts(vec![None; names.len()]);
            event.record(&mut texts);
            let seen =
                names.iter().zip(texts.0).filter_map(|(field, text)| Some((field.name().to_owned(), text?)));
            self.0.lock().unwrap().extend(seen);
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<(String, String)> {
        let seen = Seen::default();
        let subscriber = tracing_subscriber::registry().with(Readable(Recorder(seen.clone())));
        tracing::subscriber::with_default(subscriber, work);
        seen.lock().unwrap().clone()
    }

    fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
        wanted.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn the_message_ends_with_the_fields_and_the_fields_stay() {
        let seen = logged(|| {
            let error = std::io::Error::other("connection refused");
            tracing::warn!(namespace = "shop", port = 80_u16, %error, "cannot read the commit");
        });
        let message = "cannot read the commit namespace=shop port=80 error=connection refused";
        let mut wanted = pairs(&[
            ("message", message),
            ("namespace", "shop"),
            ("port", "80"),
            ("error", "connection refused"),
        ]);
        let mut seen = seen;
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_field_without_a_value_is_left_out() {
        let seen = logged(|| tracing::info!(code = None::<&str>, "done"));
        assert_eq!(seen, pairs(&[("message", "done")]));
    }
}
