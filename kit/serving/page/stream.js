// A stream of audio to the server, and of events from it (docs/serving.md).

const BYTES_WAITING = 1 << 20; // in the browser, before audio is left out: the server is too slow or gone

export class Stream {
  /** Opens a stream; `tell` is called with every event, `over` once at its end. */
  constructor({ rate, hotwords, token }, tell, over) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.sent = []; // [seconds of audio, time] of each block, so that events can be laid beside it
    this.seconds = 0;
    this.rate = rate;
    this.open = false;
    this.socket = new WebSocket(`${scheme}//${location.host}/v1/stream`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.#say({ type: "start", rate, hotwords, ...(token ? { token } : {}) });
    this.socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.event === "ready") this.open = true;
      tell(event);
    };
    this.socket.onclose = (close) => { this.open = false; over(close); };
  }

  /** Floating samples of one channel. */
  send(samples) {
    if (!this.open || this.socket.bufferedAmount > BYTES_WAITING) return;
    const block = new Int16Array(samples.length);
    for (let i = 0; i < samples.length; i++) block[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
    this.socket.send(block.buffer);
    this.seconds += samples.length / this.rate;
    this.sent.push([this.seconds, performance.now()]);
    if (this.sent.length > 3000) this.sent.splice(0, 1000);
  }

  /** Milliseconds since a second of the audio was sent. */
  since(second) {
    const block = this.sent.find(([end]) => end >= second - 1e-3);
    return block ? performance.now() - block[1] : null;
  }

  change(add, remove) {
    if (this.open) this.#say({ type: "hotwords", add, remove });
  }

  end() {
    if (this.open) this.#say({ type: "end" });
    else this.socket.close();
  }

  #say(content) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(content));
  }
}
