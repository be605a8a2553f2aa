import { expect } from "chai";
import { answerIn } from "../../provider/src/drivers/guest-ssh";

const COMPUTE = "10.84.78.252";

describe("a compute behind its frontend", () => {
  for (const [what, answer, stderr] of [
    ["refuses our key", "answers", `root@${COMPUTE}: Permission denied (publickey).`],
    [
      "shows a key that isn't the cluster's",
      "otherKey",
      `No ED25519 host key is known for ${COMPUTE} and you have requested strict checking.\nHost key verification failed.`,
    ],
  ] as const) {
    it(`has answered when it ${what}`, () => {
      expect(answerIn(COMPUTE, stderr)).to.equal(answer);
    });
  }

  const silences: Record<string, string> = {
    "the frontend refused our key":
      "root@198.51.100.20: Permission denied (publickey).\nConnection closed by UNKNOWN port 65535",
    "the frontend showed another key": "Host key verification failed.\nConnection closed by UNKNOWN port 65535",
    "the frontend can't reach it":
      "channel 0: open failed: connect failed: No route to host\nstdio forwarding failed\nConnection closed by UNKNOWN port 65535",
    "nothing was said at all": "",
  };
  for (const [what, stderr] of Object.entries(silences)) {
    it(`isn't taken for ready when ${what}`, () => {
      expect(answerIn(COMPUTE, stderr)).to.equal(undefined);
    });
  }
});
