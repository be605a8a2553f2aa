import { type Delays, Oned } from "./oned";
import { parseTemplate } from "./template";
import type { User } from "./world";

export interface StandInSite {
  readonly oned: Oned;
  readonly endpoint: string;
  readonly user: User;
  /** `user:password` of a plain user of the usual rights. */
  readonly session: string;
  readonly adminSession: string;
}

/** An OpenNebula as an admin sets it up for clusters: `docs/sites/opennebula.md` has the same commands. */
export async function standInSite(delays: Partial<Delays> = {}): Promise<StandInSite> {
  const oned = new Oned(delays);
  const endpoint = await oned.start();
  const [admin] = oned.world.users as [User];
  const user = oned.addUser("scientist", "secret:with:colons", 100, "hpc");
  const ask = (method: string, ...args: Array<string | number>) => {
    const params = ["oneadmin:opennebula", ...args].map((arg) =>
      typeof arg === "number"
        ? `<param><value><int>${arg}</int></value></param>`
        : `<param><value><string>${arg.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</string></value></param>`,
    );
    const answer = oned.answer(
      `<methodCall><methodName>one.${method}</methodName><params>${params.join("")}</params></methodCall>`,
    );
    if (!answer.includes("<boolean>1</boolean>")) {
      throw new Error(`${method}: ${answer}`);
    }
  };
  for (const host of ["dummyhost0", "dummyhost1", "dummyhost2"]) {
    ask("host.allocate", host, "dummy", "dummy", 100);
  }
  ask("datastore.allocate", 'NAME="images"\nDS_MAD="fs"\nTM_MAD="dummy"\nTYPE="IMAGE_DS"\nSAFE_DIRS="/"\n', 100);
  ask("datastore.allocate", 'NAME="system"\nTM_MAD="dummy"\nTYPE="SYSTEM_DS"\n', 100);
  ask(
    "vn.allocate",
    'NAME="public"\nVN_MAD="dummy"\nBRIDGE="br-pub"\nNETWORK_ADDRESS="198.51.100.0"\nNETWORK_MASK="255.255.255.0"\nGATEWAY="198.51.100.1"\nDNS="198.51.100.1"\nAR=[ TYPE="IP4", IP="198.51.100.10", SIZE="60" ]\n',
    100,
  );
  ask("vn.chmod", 0, -1, -1, -1, 1, -1, -1, 1, -1, -1);
  ask(
    "vntemplate.allocate",
    'NAME="vc-private"\nVN_MAD="vxlan"\nPHYDEV="eth1"\nAUTOMATIC_VLAN_ID="YES"\nCLUSTER_IDS="100"\n',
  );
  ask("vntemplate.chmod", 0, -1, -1, -1, 1, -1, -1, 1, -1, -1);
  // The group may make machines, images, templates, documents, security groups; and networks.
  ask("acl.addrule", "200000064", "21429400000000", "8", "100000000");
  ask("acl.addrule", "200000064", "4400000000", "8", "100000000");
  for (const [kind, groups] of parseTemplate('VM=[ VMS="200", CPU="200", MEMORY="131072" ]')) {
    for (const group of groups as Array<Map<string, string>>) {
      for (const [name, limit] of group) {
        user.quotas.set(`${kind}/${name}`, Number(limit));
      }
    }
  }
  await new Promise((resolve) => setTimeout(resolve, (delays.network ?? oned.delays.network) + 20));
  return { oned, endpoint, user, session: `${user.name}:secret:with:colons`, adminSession: `${admin.name}:opennebula` };
}
