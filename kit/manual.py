"""What `python -m kit --help` and `python -m kit COMMAND --help` say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One command: what it does in a line, how it is called, and the rest of its help."""

    summary: str
    usage: str
    help: str


MANUAL: dict[str, Entry] = {
    "fit": Entry(
        "train a stage and the stages that it builds on",
        "fit [stage=NAME] [key=value ...]",
        """Prepares the data, runs the stages that have no finished run yet, trains the stage, writes its export and,
after the last stage, prints a table of held-out error rates. Interrupted or killed, the same command goes on from the
last checkpoint.

examples:
  python -m kit fit stage=sft
  python -m kit fit stage=sft trainer=debug                three steps a stage, to see that everything runs
  python -m kit fit stage=pretrain trainer.max_steps=50 model.encoder.layers=4 seed=3
  python -m kit fit stage=pretrain init=newest data=manifest data.train=my/utterances.jsonl

stage=NAME           a file in configs/stage, or in a folder of your own given by configs=FOLDER
experiment=NAME      runs of one experiment find each other (default: default)
upstream=auto        train what is missing; never: refuse; PATH: take this run or export
init=PATH|newest     start from an export instead of the upstream stages
trainer.progress=false   no progress line
Any other value of configs/ can be given in the same way.""",
    ),
    "transcribe": Entry(
        "write down what is said in audio files",
        "transcribe FILE... | manifest=FILE out=FILE.jsonl  [checkpoint=PATH] [key=value ...]",
        """Prints FILE<TAB>TEXT, a line a file, as each is ready. Any sample rate; wav, flac, mp3, ogg; several channels
are mixed. A file that cannot be read is told on standard error, the others go on, and the exit code is 1.
With a manifest, all that it lists is written to a file, a line of JSON an utterance, in batches. Killed at any moment,
the same command goes on, and each utterance is written once (docs/batch.md).

examples:
  python -m kit transcribe a.wav b.flac
  python -m kit transcribe a.wav checkpoint=runs/default/sft/20260101-120000
  python -m kit transcribe a.wav hotwords=names.db         names that are heard become hints (see kit hotwords)
  python -m kit transcribe -- name=with=signs.wav          files only, after --
  python -m kit transcribe manifest=my/utterances.jsonl out=texts.jsonl
  python -m kit transcribe manifest=/fast/aishell/test out=texts.jsonl batch.times=true
  python -m kit transcribe manifest=/fast/aishell/test out=texts.jsonl engine=ray batch.workers=4

checkpoint=PATH      a run or an export (default: the newest complete one in runs/)
manifest=FILE        a jsonl of audio, a Lhotse manifest, a Shar folder or address
out=FILE.jsonl       id, text, language, duration; what cannot be transcribed is in FILE.problems.jsonl, with the reason
decoding.llm.url=URL decoding.llm.folder=FOLDER   let a vLLM server write the texts (docs/batch.md)
batch.seconds=120    of audio that are decoded together
batch.times=true     with segments and words, and when they were said
batch.device=cpu|cuda    default: a GPU where there is one
engine=local|ray     ray: several processes on this machine, or on those of a cluster
batch.workers=2      of engine=ray; batch.cpus=1: processors of each
cluster=auto|HOST:PORT   a Ray cluster that is up (default: one is started here)""",
    ),
    "stream": Entry(
        "write down what is being said, as it is said",
        "stream FILE|mic [events=json] [realtime=true] [checkpoint=PATH] [key=value ...]",
        """Hears the audio 640 ms at a time. In a terminal: settled text bold, the provisional rest dim, what ended
above. Elsewhere: START-END<TAB>TEXT, a line an utterance, on standard output, and texts under way on standard error.

examples:
  python -m kit stream a.wav realtime=true
  python -m kit stream mic
  python -m kit stream a.wav events=json                    one JSON object an event: began, partial, hotword, final
  python -m kit stream mic hotwords=names.db                names that are heard become hints (see kit hotwords)
  python -m kit stream a.wav decoding.chunk=8 decoding.left=8       320 ms chunks
  python -m kit stream a.wav decoding.callbacks.endpoint=null       the whole file as one utterance

events=text|json     how to tell what happens
realtime=true        hear a file no faster than it was said
checkpoint=PATH      a run or an export (default: the newest complete one in runs/)
decoding.*           see configs/decoding/streaming.yaml""",
    ),
    "serve": Entry(
        "offer recognition to other programs, and a page to talk to",
        "serve [port=8000] [host=127.0.0.1] [checkpoint=PATH] [hotwords=DB] [key=value ...]",
        """Keeps engine processes alive and steps all streams of one together. A page to talk to it stands at
http://127.0.0.1:8000; clients send audio over a WebSocket and get JSON events, or a whole recording in OpenAI's form;
docs/serving.md has the protocol. Ctrl-C or SIGTERM ends it after what is being said is written down.

examples:
  python -m kit serve
  python -m kit serve port=9000 hotwords=names.db
  KIT_TOKEN=secret python -m kit serve host=0.0.0.0                 for other machines, who must show the token
  python -m kit serve serving.streams=32 serving.replicas=2         how many streams, in how many processes
  python -m kit serve engine=ray serving.replicas=2 serving.most_replicas=8    on the machines of a Ray cluster

checkpoint=PATH      a run or an export (default: the newest complete one in runs/)
hotwords=DB          names that are heard become hints; replaced under running streams (see kit hotwords)
engine=ray           Ray Serve: replicas that come and go with the streams; cluster=auto|HOST:PORT joins one that is up
serving.*            see configs/serving/default.yaml
decoding.*           see configs/decoding/streaming.yaml""",
    ),
    "evaluate": Entry(
        "measure error rates on held-out data",
        "evaluate [checkpoint=PATH] [data=NAME] [split=NAME] [benchmark=NAME] [system=COMMAND] [out=FILE]",
        """Prints a table by language and domain: character error rate for Mandarin and code-switch, word error rate
for English, phoneme error rate of the phoneme head; and how many names were found, hints recited, texts made up.
A benchmark is a list of sets, each heard whole and in streams, without and with retrieval: it writes a report.

examples:
  python -m kit evaluate
  python -m kit evaluate hints_from=homophone              does it write the name that was said, or the one it was told?
  python -m kit evaluate split=unseen hotwords=names.db    names that are heard become hints; retrieval=none for none
  python -m kit evaluate decoding=chunked out=report.json
  python -m kit evaluate data=manifest data.test=my/utterances.jsonl
  python -m kit evaluate noise_at=5                        every utterance in noise at 5 dB
  python -m kit evaluate split=silence                     how often silence and noise become words
  python -m kit evaluate benchmark=cockpit out=reports/mine       report.html, report.md and report.json
  python -m kit evaluate benchmark=my/manifests hotwords=names.db
  python -m kit evaluate "system=python -m kit.peers.pocketsphinx" data=manifest data.test=my/utterances.jsonl
  python -m kit evaluate compare before.json after.json    is the difference real?
  python -m kit evaluate split=truncated                   what it adds to utterances that break off

checkpoint=PATH      a run or an export (default: the newest complete one in runs/)
split=NAME           part of the data (default: all that are held out), silence: clips without speech, or truncated:
                     utterances that break off
noise_at=DB          mix noise that training never hears into every utterance, at this signal-to-noise ratio
noise_from=FOLDER    recordings of noise (default: babble, engines and music made on this machine)
hints_from=KIND      hints for each utterance: right, wrong, homophone or mixed (see configs/config.yaml)
normalization=NAME   what is no error: light (default), basic, none, or wetext, which needs nim4-kit[wetext]
benchmark=NAME       public, cockpit, or a folder in which every jsonl is a set; out=FOLDER for the report
system=COMMAND       a program in place of an export: id<TAB>path of wav files on its standard input ({} in the command
                     becomes the list's path), id<TAB>text on its standard output
compare A B          two reports, utterance by utterance; way=, against= and split= choose
out=FILE             write the figures and all utterances as JSON too""",
    ),
    "study": Entry(
        "compare ways of training over several seeds",
        "study name=NAME [seeds=[1,2,3]] [key=value ...]",
        """Trains and evaluates every arm of a study with every seed, as nested runs in MLflow, then prints a table of
means and deviations and writes it, with figures, to runs/studies/NAME. What arms and studies have in common is trained
once; interrupted, the same command goes on from there. Without a name it lists the studies that there are.

examples:
  python -m kit study
  python -m kit study name=ia_sft
  python -m kit study name=ia_sft seeds=[1] trainer.max_steps=20     to see that everything runs

name=NAME            a file in configs/study, or in study/ in a folder of your own given by configs=FOLDER
seeds=[1,2,3]        instead of the study's
Any other value of configs/ holds for all stages and evaluations of all arms.""",
    ),
    "info": Entry(
        "describe a model: its parts and their sizes",
        "info [model=NAME] [key=value ...]",
        """Counts the parameters of every part without allocating them.

examples:
  python -m kit info
  python -m kit info model=nim4""",
    ),
    "bench": Entry(
        "time the kernels against the alternatives, streaming sessions, the retrieval of hotwords, serving, and RL",
        "bench chunk_attention|chunk_attention_stream|ctc_prefix|streaming|retrieval|serving|rl ... [key=value ...]",
        """Checks every provider against the reference in double, times those that pass in turns, prints a table and
writes a CSV row each and a plot. A provider that fails the check gets no time, and the exit code is 1 if it is ours.

examples:
  python -m kit bench chunk_attention
  python -m kit bench chunk_attention ctc_prefix only=T750 seconds=5 out=results

device=cpu|cuda      default: a GPU where there is one
only=TEXT            cases with this in their name
seconds=1            time to spend on a provider in a case
out=bench            folder for the CSV (rows are added) and the plots

bench streaming times whole sessions with random weights: what a chunk costs, by part, and how many streams fit.
  python -m kit bench streaming model=nim4 streams=1,8,64
  python -m kit bench streaming minutes=10                  also plots the cost of each chunk of a long stream
options: model=tiny streams=1,8 chunks=30 tokens=8 minutes=0 device=auto out=bench

bench retrieval tells what finding hotwords costs and how much is found, with the newest export or checkpoint=PATH: by
exact search, by sound, by edit distance (rapidfuzz, in the dev extra), and by sound and audio together.
  python -m kit bench retrieval                             100,000 made-up names
  python -m kit bench retrieval database=names.db sizes=10000,100000,1000000,10000000
options: database= names=100000 sizes=10000,100000 streams=1,8 errors=0,5,10,15,20 (% of the phonemes) utterances=200
edits=20 (utterances for edit distance, which is slow) precision=0.98 out=bench; others are of the configuration

bench serving starts a server and says utterances to it at the speed of speech: how long their last words take by the
number of streams, CPU and memory; with minutes= a soak, with cycles= connections that come and go.
  python -m kit bench serving streams=1,4,8,12 seconds=30
  python -m kit bench serving streams=8 minutes=30 cycles=1000
options: streams=1,4,8,12 seconds=30 minutes=0 cycles=0 audio=FOLDER (default: held-out data) out=bench; others are
of serve

bench rl takes steps of RL and of supervised training on the same audio in turns: seconds, their parts, memory.
  python -m kit bench rl stage.group=16 stage.batch_seconds=30
options: steps=6 than=context_sft device=auto out=bench; others are of the configuration""",
    ),
    "hotwords": Entry(
        "build and search databases of names, so that they are recognized when they are said",
        "hotwords build|search|stats|calibrate|add|remove FILE... [key=value ...]",
        """A database has any number of names under the phonemes that they are said with. What is heard becomes a hint
for the language model: python -m kit transcribe a.wav hotwords=DB. A list is a text file: a name a line, and behind
tabs, if wanted, its kind, its weight (1 is usual, more is likelier) and its phonemes (several pronunciations by |).

examples:
  python -m kit hotwords build names.tsv out=names.db
  python -m kit hotwords build names.tsv.gz out=names.db threads=8 dense=false
  python -m kit hotwords search names.db "navigate to the Bund"
  python -m kit hotwords search names.db "uai4 t an1" nearest=20
  python -m kit hotwords stats names.db
  python -m kit hotwords calibrate names.db precision=0.95
  python -m kit hotwords add mine.tsv NIO kind=car weight=2 "phonemes=N IY OW|N AY OW"
  python -m kit hotwords remove mine.tsv "Old Home"

build NAMES out=DB   done again after a change of the list, it pronounces only the new names; a process that has the
                     database open goes over to the new one by itself
  threads=N          processes (default: one a core)
  dense=false        without the index for names that sound only nearly as what is heard (retrieval=hybrid)
search DB "..."      exact matches in a text or in phonemes, then the nearest by sound:
                     exact|near<TAB>distance<TAB>name<TAB>kind<TAB>weight<TAB>phonemes
  nearest=10         how many strings that sound alike
  shortest=4         phonemes of an exact match at least
stats DB             counts by kind, lengths, homophones, sizes
calibrate DB         how much evidence hints need (retrieval.margin) so that so many of them were said, with the newest
  precision=0.98     export or checkpoint=PATH, on split=dev of the data; the more utterances the better
add LIST NAME        put a name on a personal list (personal=LIST beside hotwords=DB); kind=, weight=, phonemes=
remove LIST NAME     take it from there, and hide it in the database for who uses the list""",
    ),
    "data": Entry(
        "list the public corpora, prepare a downloaded one, export any data as Lhotse Shar",
        "data list|prepare|export [key=value ...]",
        """Prepares a corpus once from the folder that you unpacked it to: reads its lists, looks into every recording,
counts what cannot be used beside what is published, and writes manifests, which data=NAME trains and evaluates on.

examples:
  python -m kit data list
  python -m kit data prepare corpus=librispeech root=/corpora/LibriSpeech
  python -m kit data prepare corpus=wenetspeech root=/corpora/WenetSpeech parts=train_s,dev,test_net,test_meeting
  python -m kit evaluate data=librispeech split=test_clean
  python -m kit fit stage=pretrain data=mix "data.members={aishell: 2, librispeech: 1}"
  python -m kit data export data=aishell split=train out=/fast/aishell
  python -m kit fit stage=pretrain data=manifest data.train=/fast/aishell/train

prepare corpus=NAME root=FOLDER
  parts=A,B            only these (default: all that are there)
  out=FOLDER           instead of cache/corpora/NAME; then data.folder=FOLDER
                       every utterance that cannot be used is named in FOLDER/PART/problems.tsv
export out=FOLDER      writes FOLDER/PART with flac in archives (16 kHz, mono, 16 bit), whole or not at all
  shards=1000          utterances in an archive
  split=PART           only this part; data=... and other values as for fit
cache=FOLDER           instead of cache/""",
    ),
    "export": Entry(
        "write encoder and phoneme head as ONNX, to stream without the kit",
        "export onnx [checkpoint=PATH] out=FOLDER [quantize=int8] [check=UTTERANCES] [key=value ...]",
        """Writes one streaming step, with its caches as inputs and outputs, runs it in onnxruntime beside the kit's own
stream, and keeps it only if the numbers agree to 1e-4. Needs nim4-kit[onnx]; docs/export.md says how to use the files.

examples:
  python -m kit export onnx out=exports/onnx
  python -m kit export onnx out=exports/small quantize=int8 check=100
  python -m kit export onnx out=exports/fast decoding.chunk=8 decoding.left=8

checkpoint=PATH      a run or an export (default: the newest complete one in runs/)
quantize=int8        write the matrices in 8 bits, too
check=N              phoneme error rates on N utterances of data=... split=...: the kit's, and those of the files
decoding.chunk=16    frames of 40 ms a step; decoding.left=4: chunks that it sees to the left""",
    ),
    "import": Entry(
        "take over weights that others published",
        "import firered-aed CHECKPOINT [cmvn=FILE] out=FOLDER [model=firered_l]",
        """Makes an export of the encoder of FireRedASR-AED, tensor by tensor, with the normalization of its features.
Everything that is missing, surplus or of another shape is named, and then nothing is written. Nothing in the file is
executed.

examples:
  python -m kit import firered-aed FireRedASR-AED-L/model.pth.tar out=exports/firered
  python -m kit import firered-aed model.pth.tar cmvn=cmvn.txt out=exports/firered

cmvn=FILE            Kaldi's statistics, binary or text (default: cmvn.ark or cmvn.txt beside the checkpoint)
out=FOLDER           the export: init=FOLDER starts a stage from it
model=NAME           its shape (default: firered_l, that of AED-L)""",
    ),
    "doctor": Entry(
        "tell what this machine has, what is missing and what installs it",
        "doctor [runs=FOLDER]",
        """Looks at Python, the packages, the devices, memory and disk, tries what can be installed and yet broken, and
says for everything that is missing what works instead and the command that installs it. The exit code is 0 if the main
job (make run) can run, 1 if not. The last line is for a bug report.

examples:
  python -m kit doctor
  python -m kit doctor runs=/large/disk/runs

runs=FOLDER          where runs would stand, to look at the disk there""",
    ),
}
