import type { PrivateKeys } from "../../node-files/set-up";
import { sha256 } from "../../vc-out/digest";
import type { ClusterRecord } from "../driver";
import { TAG } from "./objects";
import { base64, fromBase64, type TemplateGroup } from "./template-text";

/** The variable of a machine's CONTEXT that holds its vc-out.xml. */
export const VC_OUT = "VC_OUT_XML_BASE64";

/**
 * For images with one-context and without our guest program: puts what the context holds where the standard wants it.
 * one-context has exported the variables; `vc-guest`, where there is one, reads the disc by itself and is only woken.
 */
const START_SCRIPT = `#!/bin/sh
umask 077
if command -v vc-guest >/dev/null 2>&1; then exec vc-guest context; fi
put() { [ -z "$2" ] || { printf %s "$2" | base64 -d >"$1.vc-new" && mv -f "$1.vc-new" "$1"; }; }
mkdir -p /root/.ssh
put /root/vc-out.xml "$${VC_OUT}"
put /root/.ssh/id_ed25519 "$VC_ROOT_KEY_BASE64"
put /root/.ssh/id_ed25519.pub "$VC_ROOT_PUBLIC_KEY_BASE64"
put /etc/ssh/ssh_host_ed25519_key "$VC_HOST_KEY_BASE64"
put /etc/ssh/ssh_host_ed25519_key.pub "$VC_HOST_PUBLIC_KEY_BASE64"
own=$(cat /root/.ssh/id_ed25519.pub)
allowed=/root/.ssh/authorized_keys
grep -qxF "$own" $allowed 2>/dev/null || {
  [ -z "$(tail -c 1 $allowed 2>/dev/null)" ] || echo >>$allowed
  echo "$own" >>$allowed
}
{ systemctl try-reload-or-restart ssh sshd || service ssh reload || service sshd reload || :; } >/dev/null 2>&1
`;

/** What a machine finds on its context disc. */
export function contextOf(
  node: string,
  cluster: ClusterRecord,
  keys: PrivateKeys,
  vcOut: string,
  options: { readonly reportsReady: boolean },
): TemplateGroup {
  return {
    NETWORK: "YES",
    SET_HOSTNAME: node === "frontend" ? cluster.plan.frontend.fqdn : node,
    START_SCRIPT_BASE64: base64(START_SCRIPT),
    ...changingContextOf(cluster, vcOut),
    VC_HOST_KEY_BASE64: base64(keys.hostKey.private),
    VC_HOST_PUBLIC_KEY_BASE64: base64(`${keys.hostKey.public}\n`),
    VC_ROOT_KEY_BASE64: base64(keys.rootKey.private),
    VC_ROOT_PUBLIC_KEY_BASE64: base64(`${keys.rootKey.public}\n`),
    ...(options.reportsReady && { TOKEN: "YES", REPORT_READY: "YES" }),
  };
}

/** What of it changes while a machine is there. one-context lets whoever is in SSH_PUBLIC_KEY in, at every start. */
export function changingContextOf({ publicKeys }: ClusterRecord, vcOut: string): TemplateGroup {
  return { SSH_PUBLIC_KEY: publicKeys.join("\n"), [VC_OUT]: base64(vcOut) };
}

/** The keys that a machine was given. */
export function keysInContext(context: ReadonlyMap<string, string>): PrivateKeys | undefined {
  const pair = (name: string) => {
    const [secret, open] = [context.get(`VC_${name}_KEY_BASE64`), context.get(`VC_${name}_PUBLIC_KEY_BASE64`)];
    return secret && open ? { private: fromBase64(secret), public: fromBase64(open).trim() } : undefined;
  };
  const [hostKey, rootKey] = [pair("HOST"), pair("ROOT")];
  return hostKey && rootKey ? { hostKey, rootKey } : undefined;
}

export function vcOutTags(vcOut: string): TemplateGroup {
  return { [TAG.vcOutDigest]: sha256(vcOut), [TAG.vcOutWaits]: "NO" };
}
