"""Countries, their capitals and continents, in English and Chinese."""

from typing import NamedTuple


class Country(NamedTuple):
    english: str
    chinese: str
    capital_english: str
    capital_chinese: str
    continent: str


CONTINENTS = {
    "AF": ("Africa", "非洲"),
    "AM": ("America", "美洲"),
    "AS": ("Asia", "亚洲"),
    "EU": ("Europe", "欧洲"),
    "OC": ("Oceania", "大洋洲"),
}

_TABLE = """
China,中国,Beijing,北京,AS
Japan,日本,Tokyo,东京,AS
South Korea,韩国,Seoul,首尔,AS
North Korea,朝鲜,Pyongyang,平壤,AS
Mongolia,蒙古,Ulaanbaatar,乌兰巴托,AS
Vietnam,越南,Hanoi,河内,AS
Laos,老挝,Vientiane,万象,AS
Cambodia,柬埔寨,Phnom Penh,金边,AS
Thailand,泰国,Bangkok,曼谷,AS
Myanmar,缅甸,Naypyidaw,内比都,AS
Malaysia,马来西亚,Kuala Lumpur,吉隆坡,AS
Indonesia,印度尼西亚,Jakarta,雅加达,AS
Philippines,菲律宾,Manila,马尼拉,AS
India,印度,New Delhi,新德里,AS
Pakistan,巴基斯坦,Islamabad,伊斯兰堡,AS
Bangladesh,孟加拉国,Dhaka,达卡,AS
Nepal,尼泊尔,Kathmandu,加德满都,AS
Bhutan,不丹,Thimphu,廷布,AS
Afghanistan,阿富汗,Kabul,喀布尔,AS
Iran,伊朗,Tehran,德黑兰,AS
Iraq,伊拉克,Baghdad,巴格达,AS
Syria,叙利亚,Damascus,大马士革,AS
Lebanon,黎巴嫩,Beirut,贝鲁特,AS
Jordan,约旦,Amman,安曼,AS
Saudi Arabia,沙特阿拉伯,Riyadh,利雅得,AS
Yemen,也门,Sanaa,萨那,AS
Oman,阿曼,Muscat,马斯喀特,AS
Qatar,卡塔尔,Doha,多哈,AS
Bahrain,巴林,Manama,麦纳麦,AS
Turkey,土耳其,Ankara,安卡拉,AS
Georgia,格鲁吉亚,Tbilisi,第比利斯,AS
Armenia,亚美尼亚,Yerevan,埃里温,AS
Azerbaijan,阿塞拜疆,Baku,巴库,AS
Kazakhstan,哈萨克斯坦,Astana,阿斯塔纳,AS
Uzbekistan,乌兹别克斯坦,Tashkent,塔什干,AS
Kyrgyzstan,吉尔吉斯斯坦,Bishkek,比什凯克,AS
Tajikistan,塔吉克斯坦,Dushanbe,杜尚别,AS
France,法国,Paris,巴黎,EU
Germany,德国,Berlin,柏林,EU
United Kingdom,英国,London,伦敦,EU
Ireland,爱尔兰,Dublin,都柏林,EU
Spain,西班牙,Madrid,马德里,EU
Portugal,葡萄牙,Lisbon,里斯本,EU
Italy,意大利,Rome,罗马,EU
Greece,希腊,Athens,雅典,EU
Switzerland,瑞士,Bern,伯尔尼,EU
Austria,奥地利,Vienna,维也纳,EU
Belgium,比利时,Brussels,布鲁塞尔,EU
Netherlands,荷兰,Amsterdam,阿姆斯特丹,EU
Denmark,丹麦,Copenhagen,哥本哈根,EU
Norway,挪威,Oslo,奥斯陆,EU
Sweden,瑞典,Stockholm,斯德哥尔摩,EU
Finland,芬兰,Helsinki,赫尔辛基,EU
Iceland,冰岛,Reykjavik,雷克雅未克,EU
Estonia,爱沙尼亚,Tallinn,塔林,EU
Latvia,拉脱维亚,Riga,里加,EU
Lithuania,立陶宛,Vilnius,维尔纽斯,EU
Poland,波兰,Warsaw,华沙,EU
Czechia,捷克,Prague,布拉格,EU
Slovakia,斯洛伐克,Bratislava,布拉迪斯拉发,EU
Hungary,匈牙利,Budapest,布达佩斯,EU
Romania,罗马尼亚,Bucharest,布加勒斯特,EU
Bulgaria,保加利亚,Sofia,索非亚,EU
Serbia,塞尔维亚,Belgrade,贝尔格莱德,EU
Croatia,克罗地亚,Zagreb,萨格勒布,EU
Slovenia,斯洛文尼亚,Ljubljana,卢布尔雅那,EU
Albania,阿尔巴尼亚,Tirana,地拉那,EU
Ukraine,乌克兰,Kyiv,基辅,EU
Belarus,白俄罗斯,Minsk,明斯克,EU
Moldova,摩尔多瓦,Chisinau,基希讷乌,EU
Russia,俄罗斯,Moscow,莫斯科,EU
Malta,马耳他,Valletta,瓦莱塔,EU
Cyprus,塞浦路斯,Nicosia,尼科西亚,EU
Egypt,埃及,Cairo,开罗,AF
Libya,利比亚,Tripoli,的黎波里,AF
Tunisia,突尼斯,Tunis,突尼斯市,AF
Algeria,阿尔及利亚,Algiers,阿尔及尔,AF
Morocco,摩洛哥,Rabat,拉巴特,AF
Sudan,苏丹,Khartoum,喀土穆,AF
Ethiopia,埃塞俄比亚,Addis Ababa,亚的斯亚贝巴,AF
Somalia,索马里,Mogadishu,摩加迪沙,AF
Kenya,肯尼亚,Nairobi,内罗毕,AF
Uganda,乌干达,Kampala,坎帕拉,AF
Rwanda,卢旺达,Kigali,基加利,AF
Tanzania,坦桑尼亚,Dodoma,多多马,AF
Zambia,赞比亚,Lusaka,卢萨卡,AF
Zimbabwe,津巴布韦,Harare,哈拉雷,AF
Mozambique,莫桑比克,Maputo,马普托,AF
Madagascar,马达加斯加,Antananarivo,塔那那利佛,AF
Namibia,纳米比亚,Windhoek,温得和克,AF
Angola,安哥拉,Luanda,罗安达,AF
Cameroon,喀麦隆,Yaounde,雅温得,AF
Nigeria,尼日利亚,Abuja,阿布贾,AF
Ghana,加纳,Accra,阿克拉,AF
Senegal,塞内加尔,Dakar,达喀尔,AF
Mali,马里,Bamako,巴马科,AF
United States,美国,Washington,华盛顿,AM
Canada,加拿大,Ottawa,渥太华,AM
Mexico,墨西哥,Mexico City,墨西哥城,AM
Guatemala,危地马拉,Guatemala City,危地马拉城,AM
Honduras,洪都拉斯,Tegucigalpa,特古西加尔巴,AM
Nicaragua,尼加拉瓜,Managua,马那瓜,AM
Costa Rica,哥斯达黎加,San Jose,圣何塞,AM
Panama,巴拿马,Panama City,巴拿马城,AM
Cuba,古巴,Havana,哈瓦那,AM
Jamaica,牙买加,Kingston,金斯敦,AM
Haiti,海地,Port-au-Prince,太子港,AM
Colombia,哥伦比亚,Bogota,波哥大,AM
Venezuela,委内瑞拉,Caracas,加拉加斯,AM
Ecuador,厄瓜多尔,Quito,基多,AM
Peru,秘鲁,Lima,利马,AM
Brazil,巴西,Brasilia,巴西利亚,AM
Paraguay,巴拉圭,Asuncion,亚松森,AM
Uruguay,乌拉圭,Montevideo,蒙得维的亚,AM
Argentina,阿根廷,Buenos Aires,布宜诺斯艾利斯,AM
Chile,智利,Santiago,圣地亚哥,AM
Australia,澳大利亚,Canberra,堪培拉,OC
New Zealand,新西兰,Wellington,惠灵顿,OC
Fiji,斐济,Suva,苏瓦,OC
"""

COUNTRIES = tuple(Country(*line.split(",")) for line in _TABLE.strip().splitlines())
