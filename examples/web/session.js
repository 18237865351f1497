// What the example pages share: a WebTransport session with the server the page came from, and reading streams.

const encoder = new TextEncoder();

/** Opens a session at `path` and keeps the page's #status in step with it. Rejects when it cannot be had. */
export async function openSession(path) {
  const status = document.getElementById("status");
  const show = (state, text) => {
    status.dataset.state = state;
    status.textContent = text;
  };
  if (!("WebTransport" in window)) {
    show("failed", "this browser has no WebTransport");
    throw new Error("no WebTransport");
  }
  show("opening", "connecting");
  const options = {};
  // A development certificate is trusted by its hash; any other the browser verifies by itself.
  const { sha256, port } = await (await fetch("/certificate")).json();
  const url = new URL(path, location.href);
  if (port) url.port = port; // where the session is to be had, when that is not where the page came from
  if (sha256) {
    const value = Uint8Array.from(sha256.match(/../g), (byte) => parseInt(byte, 16));
    options.serverCertificateHashes = [{ algorithm: "sha-256", value }];
  }
  const session = new WebTransport(url.href, options);
  session.closed.then(
    ({ closeCode, reason }) => show("closed", reason ? `closed: ${reason}` : `closed (code ${closeCode ?? 0})`),
    () => show("failed", "connection lost"),
  );
  try {
    await session.ready;
  } catch (error) {
    show("failed", "the server refused the session");
    throw error;
  }
  show("open", "connected");
  return session;
}

/** The chunks of a readable stream, to its end or the session's; its lock is given back then. */
export async function* chunks(readable) {
  const reader = readable.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error.source !== "session") throw error;
  } finally {
    reader.releaseLock();
  }
}

/** All of a stream, as text. */
export async function readText(readable) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of chunks(readable)) text += decoder.decode(chunk, { stream: true });
  return text + decoder.decode();
}

/** The lines of a stream, each parsed as JSON as soon as it is complete. */
export async function* jsonLines(readable) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of chunks(readable)) {
    text += decoder.decode(chunk, { stream: true });
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Writes text as the whole of a stream. */
export async function writeText(writable, text) {
  const writer = writable.getWriter();
  await writer.write(encoder.encode(text));
  await writer.close();
}

/** A function that sends text as a datagram. */
export function datagramSender(session) {
  // `writable` is what browsers have; `createWritable` is what the specification has now.
  const { datagrams } = session;
  const writer = (datagrams.writable ?? datagrams.createWritable()).getWriter();
  return (text) => writer.write(encoder.encode(text)).catch(() => {}); // lost, as datagrams may be
}
