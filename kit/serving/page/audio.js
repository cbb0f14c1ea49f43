// The microphone or a file as blocks of samples, both by way of the same AudioWorklet.

export class Source {
  /** Opens the microphone, or a file that is played; resolves when blocks come. */
  static async open(file, heard, over) {
    const source = new Source();
    source.context = await context(file);
    await source.context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    const capture = new AudioWorkletNode(source.context, "capture", { numberOfOutputs: 1 });
    capture.port.onmessage = (message) => heard(message.data);
    capture.connect(source.context.destination); // it gives out silence; without an end some browsers do not run it
    if (file) {
      const player = source.context.createBufferSource();
      player.buffer = await source.context.decodeAudioData(await file.arrayBuffer());
      player.connect(capture);
      player.connect(source.context.destination);
      player.onended = over;
      source.start = () => player.start();
    } else {
      source.media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
      source.start = () => source.context.createMediaStreamSource(source.media).connect(capture);
    }
    await source.context.resume();
    return source;
  }

  get rate() {
    return this.context.sampleRate;
  }

  close() {
    for (const track of this.media?.getTracks() ?? []) track.stop();
    if (this.context.state !== "closed") this.context.close();
  }
}

/** At 16 kHz, which the recognizer hears; some browsers give a microphone at their own rate only. */
async function context(file) {
  const firefox = navigator.userAgent.includes("Firefox/");
  const own = new AudioContext(firefox && !file ? {} : { sampleRate: 16000 });
  return own.sampleRate <= 48000 ? own : new AudioContext({ sampleRate: 48000 });
}
