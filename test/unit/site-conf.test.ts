import { expect } from "chai";
import { parseSiteConf } from "../../provider/src/pragma/site-conf";

describe("site_conf.conf", () => {
  const read = (text: string) => Object.fromEntries(parseSiteConf(text));

  it("is read as sites wrote it", () => {
    const text = `################ Site Configuration File ################

# Choose the driver
site_ve_driver = 'kvm_rocks'
temp_directory = "/state/partition1/temp"   # for staging
log_directory=/var/log/pragma_boot
repository_settings = {
    # Required
    'repository_class' : 'local',
    "repository_dir" : '/state/vm-images # 2',

    # 'repository_url': 'http://example.org',
}
after = 'the braces'
`;
    expect(read(text)).to.deep.equal({
      site_ve_driver: "kvm_rocks",
      temp_directory: "/state/partition1/temp",
      log_directory: "/var/log/pragma_boot",
      "repository_settings.repository_class": "local",
      "repository_settings.repository_dir": "/state/vm-images # 2",
      after: "the braces",
    });
  });

  it("takes texts as they stand, and what is no assignment for nothing", () => {
    expect(
      read(
        [
          "import os",
          "if site_ve_driver == 'x':",
          "  site_ve_driver = 'y'",
          `name = 'it\\'s "here" \\\\ there'`,
          "public_ips = ['10.0.0.1',",
          "  '10.0.0.2']",
          "one = { 'a': 'b', 'c': 'd' }",
          "number = 4\r",
          "empty = ''",
        ].join("\n"),
      ),
    ).to.deep.equal({ name: `it's "here" \\ there`, "one.a": "b", "one.c": "d", number: "4", empty: "" });
  });

  it("executes nothing, and says so", () => {
    for (const value of ["base + '/temp'", "os.path.join('a', 'b')", "'a' 'b'", "$HOME/temp", "`id`", "'open", ""]) {
      expect(() => parseSiteConf(`# …\ntemp_directory = ${value}`), value).to.throw(
        /^site_conf\.conf, line 2: temp_directory would have to be worked out\. Give it as a text in quotes/,
      );
    }
  });
});
