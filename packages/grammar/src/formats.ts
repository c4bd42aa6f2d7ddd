const day = "(?:0[1-9]|[12]\\d|3[01])";
const leapYear = "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
const date = `(?:\\d{4}-(?:(?:0[13578]|1[02])-${day}|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))|${leapYear}-02-29)`;
const clock = "(?:[01]\\d|2[0-3]):[0-5]\\d";
const time = `${clock}:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-]${clock})`;
const label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const domain = "(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\\.)";
const byte = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const four = "[0-9a-fA-F]{1,4}";
const local = "[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*";
const path = "(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*";
const query = "[A-Za-z0-9._~!$&'()*+,;=:@/?-]*";

/** Groups of an IPv6 address before "::", from one to six, and at most as many after it as make seven. */
const compressed = [1, 2, 3, 4, 5, 6].map((n) => `(?:${four}:){${n}}(?::${four}){1,${7 - n}}`).join("|");

/**
 * Patterns whose every match has the format; some formats have more texts than that. Dates are days of the calendar, seconds end at 59,
 * letters of dates and times are upper case; a URI has a scheme and an authority; mail addresses and host names are ASCII.
 */
export const formats: Readonly<Record<string, string>> = {
  date: `^${date}$`,
  time: `^${time}$`,
  "date-time": `^${date}T${time}$`,
  duration:
    "^P(?!$)(?:\\d{1,9}W|(?:\\d{1,9}Y)?(?:\\d{1,9}M)?(?:\\d{1,9}D)?(?:T(?=\\d)(?:\\d{1,9}H)?(?:\\d{1,9}M)?(?:\\d{1,9}S)?)?)$",
  uuid: "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
  email: `^${local}@${domain}+[A-Za-z]{2,20}$`,
  // Three labels, so that no name is too long.
  hostname: `^${label}(?:\\.${label}){0,2}$`,
  ipv4: `^${byte}(?:\\.${byte}){3}$`,
  ipv6: `^(?:(?:${four}:){7}${four}|${compressed}|:(?::${four}){1,7}|(?:${four}:){1,7}:|::)$`,
  uri: `^[a-z][a-z0-9+.-]{0,20}://${domain}*[A-Za-z][A-Za-z0-9]*(?::[0-9]{1,4})?${path}(?:\\?${query})?(?:#${query})?$`,
};
