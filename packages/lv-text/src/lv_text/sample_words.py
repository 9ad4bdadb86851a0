"""Words and sentence patterns of the made-up prose."""

__all__ = [
    "ANIMALS",
    "CLOSINGS",
    "COLORS",
    "DREAMS",
    "ENDS",
    "FEARS",
    "FOODS",
    "FORMS",
    "HABITS",
    "HOWS",
    "LINKS",
    "NUMBERS",
    "OPENINGS",
    "SHARED",
    "SPEECH",
    "SYLLABLES",
    "TENS",
    "TIMES",
    "TRADES",
    "TRAITS",
    "WEATHERS",
]


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


NUMBERS = _split(
    "zero; one; two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; thirteen; "
    "fourteen; fifteen; sixteen; seventeen; eighteen; nineteen"
)
TENS = _split("-; -; twenty; thirty; forty; fifty; sixty; seventy; eighty; ninety")

SYLLABLES = (
    _split(
        "Ma; To; Bre; Li; Sa; Ka; Do; Ve; Ri; Hal; Per; Nor; El; Wi; Jo; Ta; Fen; Gri; Ul; As; "
        "Or; Be; Ny; Quin; Ce"
    ),
    _split("ri; la; do; me; sa; no; vi; ka; te; lo"),
    _split(
        "rin; na; vel; mund; la; ssa; dric; mon; ra; th; ben; lia; rek; wyn; lo; s; das; mir; "
        "ne; tta"
    ),
)
ENDS = ("ford", "by", " Hill", "wick", "ness", "holm", "dale", " Cross", "mere", "gate")

TRAITS = _split(
    "patient; stubborn; cheerful; shy; proud; careful; restless; generous; quiet; curious; "
    "forgetful; thrifty; brave; gloomy; gentle; sharp-tongued"
)
DREAMS = _split(
    "to see the southern sea; to own a house with a blue door; to learn the violin; "
    "to write down the old songs; to find {b}'s lost brother; to be mayor one day; "
    "to plant a hundred walnut trees; to sleep for a whole week; to build a clock; to fly"
)
FEARS = _split(
    "deep water; thunder; the dark; geese; strangers; high ladders; empty rooms; fire; fog; debt"
)
HABITS = _split(
    "whistled through {his} teeth; counted everything twice; talked to the {animal}; "
    "rubbed {his} left ear; hummed the same three notes; kept a pebble in {his} pocket; "
    "never sat down; wrote all things in a small book; laughed at the wrong moment"
)
ANIMALS = _split("old dog; gray cat; lame goose; young goat; magpie; donkey; tame crow; hedgehog")
COLORS = _split("red; green; yellow; dark blue; white; copper; violet; black; pale gray")
FOODS = _split(
    "barley soup; plum cake; smoked fish; bread and onions; cheese; pancakes; bean stew; pears; "
    "dumplings; cold porridge"
)
TIMES = _split(
    "at dawn; before breakfast; at noon; after the midday bell; in the evening; late at night; "
    "on Monday; on market day; two days later; the next morning; every Friday; at sunset"
)
HOWS = _split(
    "slowly; without a word; with great care; in a hurry; as if nothing had happened; gladly; "
    "with both hands; half asleep; with a smile; in silence; badly; for the second time"
)
LINKS = _split(
    "then; after that; all the same; so; by and by; meanwhile; in the end; once again; still"
)
SPEECH = _split("said; asked; answered; whispered; called; muttered; explained; repeated")

WEATHERS = {
    "wet": _split(
        "rain ran down the windows; the gutters were full; the road had turned to mud; "
        "a thin drizzle fell; puddles stood in every yard; the clouds hung low"
    ),
    "cold": _split(
        "snow lay on the roofs; the pump was frozen; frost drew ferns on the glass; "
        "the wind came from the north; breath turned to smoke; icicles hung from the eaves"
    ),
    "hot": _split(
        "the sun stood high; dust covered the hedges; the stream had dried up; "
        "nobody stirred in the heat; the grass was yellow; the stones were warm until midnight"
    ),
    "mild": _split(
        "a soft wind blew; the swallows were back; the air smelled of lilac; "
        "small clouds crossed the sky; the brook was loud; the first leaves had opened"
    ),
}

TRADES = {
    name: {
        "worker": _split(worker),
        "things": _split(things),
        "spots": _split(spots),
        "acts": _split(acts),
    }
    for name, worker, things, spots, acts in (
        (
            "fishing",
            "fisher; net mender",
            "net; oar; rope; anchor; basket; lantern; sail; hook; barrel; eel",
            "harbor; long pier; boathouse; sandbank; fish market; lighthouse",
            "mended the nets; rowed across the bay; salted the catch; tarred the boat; "
            "read the tide; sorted the herring",
        ),
        (
            "baking",
            "baker; apprentice",
            "loaf; oven; tray; sack of flour; rolling pin; bun; jar; apron; scale; egg",
            "bakery; cellar; mill; shop window; back door; village oven",
            "kneaded the dough; fired the oven; weighed the flour; sold rolls at the door; "
            "swept the floor; tasted the crust",
        ),
        (
            "clockmaking",
            "clockmaker; polisher",
            "clock; spring; wheel; pendulum; key; watch; bell; screw; dial; lens",
            "workshop; church tower; attic; town hall; bench by the window; strong room",
            "wound the great clock; filed a tooth; polished the dial; listened to the ticking; "
            "searched for a lost screw; oiled the wheels",
        ),
        (
            "gardening",
            "gardener; orchard hand",
            "apple; spade; rake; rose; seed box; pumpkin; ladder; beehive; bucket; cabbage",
            "orchard; greenhouse; walled garden; compost heap; well; south wall",
            "pruned the pear trees; watered the beans; dug the long bed; chased the snails; "
            "gathered the windfalls; tied up the vines",
        ),
        (
            "teaching",
            "teacher; school clerk",
            "book; slate; map; bench; inkwell; globe; ruler; pen; chalk box; chart",
            "schoolroom; library; yard; stove corner; chapel steps; reading room",
            "taught the small ones to count; corrected the copybooks; drew a map on the board; "
            "rang the bell; read a tale aloud; sharpened the pens",
        ),
        (
            "trading",
            "trader; driver",
            "cart; bale; coin; saddle; carpet; mule; ledger; chest; lamp; bolt of cloth",
            "inn; toll bridge; market square; warehouse; mountain pass; ferry",
            "loaded the cart; argued over the price; counted the coins; fed the mules; "
            "sealed the letters; asked for the road",
        ),
        (
            "stargazing",
            "astronomer; assistant",
            "telescope; star map; mirror; candle; notebook; compass; comet; planet; stool; prism",
            "observatory; hilltop; dome; stone terrace; chart room; winding stair",
            "measured the height of a star; cleaned the mirror; waited for the comet; "
            "drew the moon; wrote down the hour; turned the dome",
        ),
        (
            "weaving",
            "weaver; dyer",
            "loom; thread; shuttle; blanket; ribbon; coat; needle; skein; button; vat",
            "weaving shed; drying loft; river bank; dye house; cloth hall; garret",
            "set up the loom; dyed the wool; washed the fleece; cut the cloth; "
            "sewed on the buttons; wound the thread",
        ),
    )
}

OPENINGS = {
    "story": (
        "In {town} there lived {one_worker} called {a}, who was {trait} and wanted {dream}.",
        "Long before the bridge was built, {a} came to {town} with {list} and not one coin.",
        "Nobody in {town} was as {trait} as {a} the {worker}, and nobody feared {fear} more.",
    ),
    "diary": (
        "Diary of {a}, {worker} in {town}, in the year {years} after the flood.",
        "I, {a}, begin this book in {town} because {b} gave it to me.",
    ),
    "letter": (
        "Dear {b},\nI have been in {town} for {years} days now, and I still think of the {spot}.",
        "My dear {b},\nthank you for the {thing}; it came to {town} in good order.",
    ),
    "article": (
        "{town} is a small town known for {trade} and for its {spot}.",
        "{a} of {town} was {one_worker} who lived for {years} years beside the {spot}.",
    ),
    "conversation": (
        "{a} and {b} met at the {spot} in {town} while {weather}.",
        "{time} the {worker} {a} and the {helper} {b} stood by the {spot} of {town}.",
    ),
    "accounts": (
        "Accounts of {a}, {worker} of {town}, kept by {b}.",
        "What was bought and sold at the {spot} of {town}, written down by {b} for {a}.",
    ),
}

FORMS = {
    "story": (
        "{time} {a} {act}, and {b} watched {how}.",
        "{a} {habit} whenever {he} {act}.",
        "{link}, {a} took the {thing} to the {place} and hid it {how}.",
        "the {animal} followed {him} to the {place}.",
        "{b}, the {btrait} {helper}, had painted the {thing} {color}.",
        "what {a} wanted most was {dream}.",
        "because {he} was afraid of {fear}, {a} never went to the {place} alone.",
        "{link}, {b} found {list} behind the {place}.",
        "when {a} came home, the {thing} was gone and the {animal} was asleep.",
        '"{c} must have taken the {thing}," {said} {b}.',
        "{c} gave the {other} back {time}, and nobody asked why.",
        "{b} shared {food} with {c}, as {bhe} always did.",
    ),
    "diary": (
        "{time}: {weather}. I {act} and ate {food}.",
        "{b} came by {time} and {act}.",
        "I have lost the {thing} again; {b} says that I am too {trait}.",
        "slept badly, dreamed of {fear}.",
        "found the {any} at the {place}, where {c} had left it.",
        "the {animal} is ill and will not leave the {place}.",
        "my wish is still {dream}, but first I need {list}.",
        "paid {c} {few} coins for the {any}.",
        "{b} laughed at my {color} coat, and I did not mind.",
        "nothing new: {weather}.",
    ),
    "letter": (
        "you would not know the {place} now, for {c} has painted it {color}.",
        "{c} {act} {time}, just as you did when we were young.",
        "please send me {list}, if the {helper} can spare them.",
        "I am still {trait}, as you always told me, and still afraid of {fear}.",
        "do you remember how the {animal} stole the {thing}?",
        "{time} we eat {food}, and {c} talks of nothing but {trade}.",
        "here {weather}, and I {act} {how}.",
        "{c} asks after you and wants the {other} back.",
        "I keep your {thing} on the shelf at the {place}.",
        "do not tell {c} that I hope {dream}.",
    ),
    "article": (
        "the {place} was built by {c} and is painted {color}.",
        "its people live by {trade}; the most common tool is the {any}.",
        "{time}, visitors can see how {one_worker} of {town} once {act}.",
        "the founder, {a}, is said to have been {trait} and to have feared {fear}.",
        "the museum at the {spot} shows {list}.",
        "according to the {helper} {b}, the {thing} is more than {years} years old.",
        "the arms of {town} show a {color} {animal} above {one_thing}.",
        "people eat {food} there on the first day of the year.",
        "{link}, the {other} was moved from the {corner} to the {spot}.",
        "{a} left behind {all}, which {c} sold {how}.",
        "in the year of the flood {weather} for {few} weeks.",
    ),
    "conversation": (
        '"Where is the {thing}?" asked {a}. "At the {place}," {said} {b}.',
        '"You are too {trait}," said {b}. "And you are too {btrait}," {said} {a}.',
        '"I {act} {time}," {said} {a}, "and what did you do?"',
        '"{c} wants {all}," {said} {b}. "All of it?"',
        '"Are you still afraid of {fear}?" asked {b}. {a} {habit} and did not answer.',
        '"One day I hope {dream}," {said} {a}.',
        '"Have some {food}," {said} {b}. "It is from {c}."',
        '"How many are there?" asked {a}. "I counted: {sum}," {said} {b}.',
        '"The {animal} has eaten the {any}," {said} {b} {how}.',
        '"It was {color} when I last saw it," {said} {a}.',
        '"Look, {weather}," {said} {b}.',
    ),
    "accounts": (
        "{time}: {sum}.",
        "received from {c}: {list}.",
        "lent to {c}: the {thing}, to be brought back to the {place} {time}.",
        "{sum}, says {b}, who counted {how}.",
        "paid to the {helper} {c}: {few} coins and {food}.",
        "lost at the {place}: {list}.",
        "the {color} {any} is not for sale.",
        "in store at the {spot}: {all}.",
        "{a} {act} {time}; no charge.",
        "{b} owes {few} coins for the {any} and {few} for the {animal}.",
    ),
}

SHARED = (
    "{weather}.",
    "{time}, {weather}.",
    "at the {place} there were {list}.",
    "it is easy to see that {sum}.",
    "{b} had {all}, and that was enough for {trade}.",
    "{link}, {weather}, and the {animal} stayed at the {spot}.",
)

CLOSINGS = {
    "story": (
        "And so {a}, who had only wanted {dream}, kept the {thing} for {years} years.",
        "From that day on {a} was no longer afraid of {fear}, and {b} was as {btrait} as ever.",
    ),
    "diary": (
        "Enough for today: {weather}, and {b} is waiting with {food}.",
        "I close this book and put it under the {thing}.",
    ),
    "letter": (
        "Give my love to the {animal}.\nYour {trait} friend,\n{a}",
        "Come to {town} soon, and bring the {thing}.\nYours,\n{a}",
    ),
    "article": (
        "Today {years} families live in {town}, and {trade} is still their pride.",
        "The grave of {a} lies behind the {spot}; a {color} {thing} is carved in the stone.",
    ),
    "conversation": (
        "Then {b} went home with the {thing}, and {a} stayed at the {spot}.",
        '"Until tomorrow," said {a}. "Until tomorrow," said {b}, and took the {other}.',
    ),
    "accounts": (
        "All of this is true and complete. Signed, {b}, {helper} in {town}.",
        "Left at the end of the year: {all}, and {years} coins.",
    ),
}
