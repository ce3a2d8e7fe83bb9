"""English words that people also use as names: where one is learned, the user is warned.

Which of two meanings a text has, no finder can say: "Will the man eat?" begins with a verb.
"""

from __future__ import annotations

_ALSO_NAMES = """
will may april june august summer autumn dawn eve sunny rainy stormy misty windy rose lily daisy violet ivy
iris jasmine poppy olive hazel heather holly willow rowan ash basil ginger pepper sage rosemary clove
saffron honey sugar candy cookie brownie cocoa coco mocha latte peanut biscuit muffin pumpkin pickle bean
berry cherry peach plum apple clementine ruby pearl amber jade crystal opal gem diamond gold goldie silver
sterling grace faith hope joy charity mercy prudence constance patience verity honor honour felicity chance
destiny harmony melody glory liberty justice bliss serenity bill mark frank jack bob rob nick pat sue art
drew grant chase hunter carter mason cooper taylor baker miller smith king queen prince princess duke earl
baron bishop dean major judge page parker porter forest river brook lake cliff dale glen heath reed stone
rock rocky rusty dusty sandy curly star sky sun moon shadow smoky midnight ebony ivory snow snowy snowball
frosty blaze ember coal flint buddy lucky happy jolly merry fluffy fuzzy spot patches socks boots mittens
whiskers tiger bear lion wolf fox robin jay birdie dove raven phoenix finch wren teddy bunny kitty puppy
duck pony captain pilot scout ranger bandit rebel rocket turbo dash ace chip tip pip dot penny buck gene ray
rich dick harry gay chuck gus rod skip victor miles warren lance wade curt randy guy angel bonnie champ
chief trip trinity genesis nova echo sonny junior baby bambi cash cruise dallas paris london china india
georgia virginia florence sienna savannah dakota brooklyn chelsea
"""
_EVERYDAY = """
the a an one some is are was were be been am can must shall should would could do does did has have had he
she it they we you i me my his her its their our us them him this that these those here there who what where
when why how which not no yes and or but if so to of in on at by for with from up down out off over under as
than then too very man woman boy girl child person people friend mother father mum mom dad sister brother
dog cat bird fish horse mug cup glass bottle plate bowl bag box toy car bike bicycle truck bus chair table
desk sofa bed lamp book phone camera shoe hat shirt coat dress house room door window wall floor garden
street tree flower grass water food picture photo image thing hand face hair eye red orange yellow green
blue purple pink brown black white grey gray big small old new young good bad left right front back day
night morning two three four five six seven eight nine ten
"""
COMMON_WORDS = frozenset(_ALSO_NAMES.split()) | frozenset(_EVERYDAY.split())
