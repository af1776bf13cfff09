//! What is written in several pieces arrives in one, and nothing waits for ever.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

/// Counts the writes of a stream.
struct Counted<S>(S, usize);

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1 += 1;
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn what_ready_tasks_write_during_a_flush_leaves_with_it() {
    let (near, mut far) = duplex(1024);
    let mut cork = Cork::new(Counted(near, 0));
    cork.write_all(b"head").await.unwrap();
    let mut later = vec![&b"end"[..], b"body"];
    // Each time the flush is held back another task has its turn, as HTTP/2's do.
    std::future::poll_fn(|cx| {
        let flushed = Pin::new(&mut cork).poll_flush(cx);
        if flushed.is_pending()
            && let Some(piece) = later.pop()
        {
            assert!(Pin::new(&mut cork).poll_write(cx, piece).is_ready());
        }
        flushed
    })
    .await
    .unwrap();
    assert_eq!(cork.get_ref().1, 1);
    let mut came = [0; 11];
    far.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"headbodyend");
}

#[tokio::test]
async fn a_flush_is_not_held_back_for_ever() {
    let (near, mut far) = duplex(1 << 20);
    let mut cork = Cork::new(Counted(near, 0));
    cork.write_all(b"x").await.unwrap();
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        let flushed = Pin::new(&mut cork).poll_flush(cx);
        if flushed.is_pending() {
            assert!(Pin::new(&mut cork).poll_write(cx, b"x").is_ready());
        }
        flushed
    })
    .await
    .unwrap();
    assert_eq!(polls, u32::from(HOLDS_MAX) + 1);
    let mut came = vec![0; usize::from(HOLDS_MAX) + 1];
    far.read_exact(&mut came).await.unwrap();
}

#[tokio::test]
async fn any_pieces_arrive_whole_and_in_order() {
    // A stream that takes little at once.
    let (near, mut far) = duplex(700);
    let mut cork = Cork::new(near);
    let sent: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        let mut rest = sent.as_slice();
        for len in [1, 5000, HELD_MAX, HELD_MAX + 1, 3, 40_000].into_iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(len));
            cork.write_all(piece).await.unwrap();
            if len == 3 {
                cork.flush().await.unwrap();
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        cork.shutdown().await.unwrap();
    });
    let mut came = Vec::new();
    far.read_to_end(&mut came).await.unwrap();
    writing.await.unwrap();
    assert!(came == expected);
}
