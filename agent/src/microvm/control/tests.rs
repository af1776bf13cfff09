//! Questions and answers, with the test in the VMM's place.

use tokio::io::AsyncWriteExt;

use super::*;

fn channel() -> (MicrovmControl, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (MicrovmControl::new(ours), theirs)
}

/// Answers whatever comes with `answers`, one each.
async fn play(mut vmm: UnixStream, answers: &'static [u8]) -> (Vec<u8>, UnixStream) {
    let mut asked = Vec::new();
    for answer in answers {
        asked.push(vmm.read_u8().await.unwrap());
        vmm.write_u8(*answer).await.unwrap();
    }
    (asked, vmm)
}

#[tokio::test]
async fn each_question_waits_for_its_own_answer() {
    let (mut control, vmm) = channel();
    let vmm = tokio::spawn(play(vmm, b"prrp"));
    control.pause().await.unwrap();
    control.resume().await.unwrap();
    control.resume().await.unwrap();
    control.pause().await.unwrap();
    let (asked, _vmm) = vmm.await.unwrap();
    assert_eq!(asked, b"prrp");
}

#[tokio::test]
async fn a_vmm_that_does_not_answer_is_not_waited_for_and_not_asked_again() {
    let (control, mut vmm) = channel();
    let mut control = control.with_patience(Duration::from_millis(50));
    let began = std::time::Instant::now();
    let error = control.pause().await.unwrap_err();
    assert!(matches!(error, ControlError::TimedOut(_)), "{error:?}");
    assert!(began.elapsed() >= Duration::from_millis(50));
    // The answer to the question that was given up is not the answer to another.
    vmm.write_all(b"pr").await.unwrap();
    let error = control.resume().await.unwrap_err();
    assert!(matches!(error, ControlError::Unanswered), "{error:?}");
}

#[tokio::test]
async fn a_question_that_was_dropped_is_owed_an_answer() {
    let (mut control, _vmm) = channel();
    {
        let pause = control.pause();
        tokio::pin!(pause);
        tokio::select! {
            biased;
            result = &mut pause => panic!("{result:?} without an answer"),
            () = std::future::ready(()) => {}
        }
    }
    assert!(matches!(control.resume().await, Err(ControlError::Unanswered)));
}

#[tokio::test]
async fn a_vmm_that_is_gone_or_talks_nonsense_is_told() {
    let (mut control, vmm) = channel();
    drop(vmm);
    assert!(matches!(control.pause().await, Err(ControlError::Gone)));

    for (answer, expected) in [(b"r", Some(ControlRequest::Pause)), (b"?", None)] {
        let (mut control, vmm) = channel();
        let vmm = tokio::spawn(play(vmm, answer));
        let error = control.pause().await.unwrap_err();
        let ControlError::Unexpected { expected: asked, answer: said } = error else {
            panic!("{error:?}");
        };
        assert_eq!((asked, [said]), (expected, *answer));
        assert!(matches!(control.resume().await, Err(ControlError::Unanswered)));
        vmm.await.unwrap();
    }
}

#[tokio::test]
async fn questions_that_nobody_reads_are_refused_at_last() {
    let (control, _vmm) = channel();
    let (sender, mut receiver) = control.into_split();
    let mut sent = 0;
    let error = loop {
        match sender.send(ControlRequest::Resume) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000);
    };
    assert!(matches!(error, ControlError::Full), "{error:?}");
    assert!(sent > 100, "{sent}");
    tokio::select! {
        biased;
        answer = receiver.answer() => panic!("{answer:?}"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn dropping_the_control_ends_the_channel() {
    let (control, mut vmm) = channel();
    drop(control);
    assert_eq!(vmm.read(&mut [0]).await.unwrap(), 0);
    let (control, mut vmm) = channel();
    let (sender, _receiver) = control.into_split();
    drop(sender);
    assert_eq!(vmm.read(&mut [0]).await.unwrap(), 0);
}
