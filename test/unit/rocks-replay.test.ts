import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { runRocks } from "../stand-ins/rocks/commands";
import { freshSite, type StandInState } from "../stand-ins/rocks/site";

interface Recording {
  readonly number: number;
  readonly file: string;
  readonly user: string;
  readonly note: string;
  readonly words: readonly string[];
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

const FOLDER = join(__dirname, "..", "fixtures", "rocks");

/** The words of a command line as a shell takes them: quotes of both kinds. */
function wordsOf(line: string): string[] {
  return [...line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)].map(([word]) =>
    word.replaceAll(/'([^']*)'|"([^"]*)"/g, "$1$2"),
  );
}

function recordingOf(file: string): Recording {
  const text = readFileSync(join(FOLDER, file), "utf8");
  const [, command = ""] = /^\$ (.*)$/m.exec(text) ?? [];
  const [, user = ""] = /^# user: (.*)$/m.exec(text) ?? [];
  const [, note = ""] = /^# note: (.*)$/m.exec(text) ?? [];
  const [, exitCode = ""] = /^exit code: (\d+)$/m.exec(text) ?? [];
  const [, out = "0"] = /^--- stdout \((\d+) bytes\)$/m.exec(text) ?? [];
  const bytes = Buffer.from(text);
  const start = bytes.indexOf("\n", bytes.indexOf("--- stdout (")) + 1;
  const stdout = bytes.subarray(start, start + Number(out)).toString("utf8");
  const stderrAt = bytes.indexOf("--- stderr (", start + Number(out));
  const stderr = bytes.subarray(bytes.indexOf("\n", stderrAt) + 1).toString("utf8");
  return {
    number: Number(file.slice(0, 3)),
    file,
    user,
    note,
    // One of them takes the database away around the command.
    words: wordsOf(/^bash -c '.*; (rocks .*?);/.exec(command)?.[1] ?? command).slice(1),
    exitCode: Number(exitCode),
    stdout,
    stderr,
  };
}

/** What the driver never asks for, and the stand-in doesn't answer. */
const NOT_ANSWERED = new Map([
  [10, "list bootaction"],
  [53, "report host vm config"],
  [54, "report host vlan"],
  [98, "half a command"],
  [154, "help"],
]);

/** What was run between recordings, by the number of the next one: none of it was recorded. */
const UNRECORDED: ReadonlyMap<number, readonly string[]> = new Map([
  [129, ["add cluster 198.51.100.34 1 fe-name=vc-dupvlan cluster-naming=true vlan=7 container-hosts=vm-container-0-0"]],
  // Two that were made at the same time.
  [
    172,
    [
      "add cluster 198.51.100.52 0 fe-name=vc-race2 vlan=3",
      "add cluster 198.51.100.51 0 fe-name=vc-race1 vlan=4",
      "add host interface vm-container-0-0 vlan3 subnet=private vlan=3",
      "add host interface vm-container-0-0 vlan4 subnet=private vlan=4",
      "add host vm vm-container-0-0 'membership=Hosted VM' name=vm-vc-race2-0 mem=1024 vlan=3",
      "add host vm vm-container-0-0 'membership=Hosted VM' name=vm-vc-race1-0 mem=1024 vlan=4",
      "set host cpus frontend-0-0-0 1",
    ],
  ],
  // The first cluster, whose machines ran.
  [174, ["remove cluster vc-alpha"]],
  [181, ["add cluster 198.51.100.40 1 fe-name=vc-other cluster-naming=true vlan=40 container-hosts=vm-container-0-0"]],
  [196, ["remove host vm-vc-other-1"]],
]);

describe("the stand-in for rocks, held against what the real one has said", () => {
  const state: StandInState = { ...freshSite(), down: true };

  for (const recording of readdirSync(FOLDER).sort().map(recordingOf)) {
    it(recording.file, function () {
      const { number, words } = recording;
      state.databaseIsDown = false;
      for (const line of UNRECORDED.get(number) ?? []) {
        expect(runRocks(state, wordsOf(line)).exitCode, line).to.equal(0);
      }
      if (NOT_ANSWERED.has(number)) {
        this.skip();
      }
      state.silent = recording.note.includes("refuses the libvirt connection") ? ["vm-container-0-1"] : [];
      state.databaseIsDown = recording.note.includes("database socket moved away");
      state.version = number < 300 ? "7.0" : "6.2";
      const { exitCode, stdout, stderr } = runRocks(state, words);
      expect(stdout).to.equal(recording.stdout);
      // To who isn't root, what Rocks runs by sudo always ends well.
      const endsWell = recording.user !== "root" && words[0] !== "list";
      expect(endsWell ? 0 : exitCode).to.equal(recording.exitCode);
      // Of a traceback only its last line isn't about Rocks' own code.
      const last = (text: string) => text.trim().split("\n").at(-1);
      expect(last(stderr)).to.equal(last(recording.stderr));
      expect(stderr === "").to.equal(recording.stderr === "");
    });
  }
});
