//! Signals in a file: a JSON object a line, `{"id": …, "type": …, "data": {…}}`.
//!
//! The file is looked at from time to time. What is there is moved aside (`NAME.taken`), so that whoever appends begins a new
//! file, and is carried out line by line. The moved file is deleted when each line is durable with the source or refused; after a
//! crash before that its lines are carried out again, under the same ids.

use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tailwater_api::signal::{Signal, SignalRequest};
use tokio::fs;
use tokio::sync::mpsc;
use tracing::warn;

/// More than that is no file of signals (I6).
const LARGEST: u64 = 1 << 20;

/// Hands over what the file holds, again and again. Ends where nobody takes it any more.
pub(super) async fn watch(path: PathBuf, interval: Duration, sender: mpsc::Sender<SignalRequest>) {
    let taken = {
        let mut name = path.clone().into_os_string();
        name.push(".taken");
        PathBuf::from(name)
    };
    let mut told = None;
    while !sender.is_closed() {
        match look(&path, &taken, &sender).await {
            Ok(()) => told = None,
            // Once for as long as it stays the same.
            Err(error) if told.as_ref() != Some(&error.kind()) => {
                warn!("signals cannot be read from {}: {error}", path.display());
                told = Some(error.kind());
            }
            Err(_) => {}
        }
        tokio::time::sleep(interval).await;
    }
}

async fn look(path: &Path, taken: &Path, sender: &mpsc::Sender<SignalRequest>) -> std::io::Result<()> {
    if !fs::try_exists(taken).await? {
        match fs::metadata(path).await {
            Ok(found) if found.len() > 0 => fs::rename(path, taken).await?,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    if fs::metadata(taken).await?.len() > LARGEST {
        return Err(std::io::Error::new(IoErrorKind::FileTooLarge, format!("{} is larger than {LARGEST} bytes", taken.display())));
    }
    let text = fs::read(taken).await?;
    let text = String::from_utf8_lossy(&text);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let outcome = match Signal::from_json(line.as_bytes()) {
            Ok(signal) => {
                let (request, answered) = SignalRequest::new(signal);
                if sender.send(request).await.is_err() {
                    return Ok(());
                }
                match answered.await {
                    Ok(outcome) => outcome.map_err(|error| error.to_string()),
                    // The source ended before it was durable; the next run takes it.
                    Err(_) => return Ok(()),
                }
            }
            Err(cause) => Err(cause),
        };
        if let Err(cause) = outcome {
            warn!("line {} of {} is not carried out: {cause}", index + 1, path.display());
        }
    }
    fs::remove_file(taken).await
}

#[cfg(test)]
mod tests {
    use tailwater_api::{Error, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn lines_are_gone_once_they_are_answered_and_kept_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let (path, taken) = (folder.path().join("signals.txt"), folder.path().join("signals.txt.taken"));
        let lines = "{\"id\":\"1\",\"type\":\"log\"}\nno signal\n\n{\"id\":\"2\",\"type\":\"log\"}\n";
        fs::write(&path, lines).await.unwrap();
        let (sender, mut receiver) = mpsc::channel(1);

        // A source that ends without an answer: everything is there again.
        let ends = async { drop(receiver.recv().await) };
        let (looked, ()) = tokio::join!(look(&path, &taken, &sender), ends);
        looked.unwrap();
        assert_eq!(fs::read_to_string(&taken).await.unwrap(), lines);

        // Meanwhile somebody appends.
        fs::write(&path, "{\"id\":\"3\",\"type\":\"log\"}\n").await.unwrap();
        let answers = async {
            let mut ids = Vec::new();
            for _ in 0..3 {
                let request: SignalRequest = receiver.recv().await.unwrap();
                ids.push(request.signal.id.clone());
                request.answer(if ids.len() == 1 { Err(Error::new(ErrorKind::Misconfigured, "x")) } else { Ok(()) });
            }
            ids
        };
        let looks = async {
            look(&path, &taken, &sender).await.unwrap();
            look(&path, &taken, &sender).await.unwrap();
        };
        let ((), ids) = tokio::join!(looks, answers);
        assert_eq!(ids, ["1", "2", "3"]);
        assert!(fs::read_dir(folder.path()).await.unwrap().next_entry().await.unwrap().is_none(), "nothing is left");
    }
}
